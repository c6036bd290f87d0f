"""A web app without any dependency: says hello, which release it is, and where it runs."""

import html
import http.server
import os
import signal
import socket
import sys
import threading

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{app}</title>
<style>body {{ font: 1.2rem/1.6 system-ui; max-width: 32rem; margin: 4rem auto; padding: 0 1rem }}
dt {{ color: #777 }} dd {{ margin: 0 0 .6rem }}</style>
<h1>{greeting}</h1>
<dl>
<dt>release</dt><dd>{release}</dd>
<dt>container</dt><dd>{container}</dd>
{host}</dl>
<p>Change it: <code>deis config:set GREETING="Good morning"</code></p>
"""


def page():
    env = os.environ
    values = {
        "app": env.get("DEIS_APP", "hello"),
        "greeting": env.get("GREETING", "Powered by Deis"),
        "release": env.get("DEIS_RELEASE", "none: not on Deis"),
        "container": socket.gethostname(),
    }
    values = {name: html.escape(value) for name, value in values.items()}
    host = env.get("DEIS_HOST")
    row = f"<dt>host</dt><dd>{html.escape(host)}</dd>\n" if host else ""
    return PAGE.format(host=row, **values)


# Answers under way: they are finished before the process ends.
busy = threading.Semaphore(64)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A client that stays silent doesn't hold its thread for ever.
    timeout = 60

    def do_GET(self):
        with busy:
            body = page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    # Idle connections are not waited for.
    daemon_threads = True
    request_queue_size = 128


def main():
    port = int(os.environ.get("PORT", "5000"))
    server = Server(("", port), Handler)
    # `shutdown` waits for the loop that this handler interrupts, so it needs a thread of its own.
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"hello listens on port {port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    for _ in range(64):
        busy.acquire(timeout=5)
    print("hello is done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
