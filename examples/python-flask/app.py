"""A small Flask app, served by gunicorn (see Procfile)."""

import os

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/")
def index():
    return jsonify(
        greeting=os.environ.get("GREETING", "Powered by Deis"),
        release=os.environ.get("DEIS_RELEASE"),
        container=os.uname().nodename,
    )
