"""An app that can be made sick, crashes at start if told to, and grows on demand."""
import http.server, json, os, signal, socketserver, sys, threading, time
from urllib.parse import parse_qs, urlparse

env = os.environ
if env.get("CRASH"):
    raise SystemExit("told to crash")
time.sleep(float(env.get("SLOW_START", "0")))
well_from = 0.0
grown = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global well_from
        url = urlparse(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        status, body = 200, "well\n"
        if url.path == "/health":
            if env.get("SICK") or time.monotonic() < well_from:
                status, body = 500, "sick\n"
        elif url.path == "/sicken":
            well_from = time.monotonic() + float(query["s"])
        elif url.path == "/grow":
            for _ in range(int(query["mb"])):
                grown.append(bytearray(os.urandom(1 << 20)))
        else:
            body = json.dumps({"release": env.get("DEIS_RELEASE"), "greeting": env.get("GREETING")})
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


server = Server(("", int(env["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
