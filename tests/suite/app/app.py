"""The suite's app: tells who it is, holds requests, prints lines."""
import http.server, json, os, signal, socketserver, sys, threading, time
from urllib.parse import parse_qs, urlparse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, status=200):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urlparse(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        if url.path == "/slow":
            time.sleep(float(query.get("s", "1")))
            self.answer("slow\n")
        elif url.path == "/headers":
            self.answer(json.dumps(dict(self.headers.items())))
        elif url.path == "/print":
            first, last = int(query["from"]), int(query["to"])
            def lines():
                for n in range(first, last):
                    sys.stdout.write(f"line {n:06d} of the test\n")
                sys.stdout.flush()
            threading.Thread(target=lines).start()
            self.answer("printing\n")
        elif url.path == "/echo" and self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.end_headers()
            self.close_connection = True
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
        else:
            env = os.environ
            self.answer(json.dumps({
                "release": env.get("DEIS_RELEASE"), "app": env.get("DEIS_APP"),
                "greeting": env.get("GREETING"), "container": os.uname().nodename,
            }))

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("the test app listens", flush=True)
server.serve_forever()
