"""An app that behaves as its config says: slow to start, ill, mute, mortal, or just fine."""
import http.server, json, os, signal, socketserver, threading, time
from urllib.parse import parse_qs, urlparse

env = os.environ
if env.get("CRASH"):
    raise SystemExit("told to crash")
if env.get("DIES_AFTER"):
    def die():
        print("told to die", flush=True)
        os._exit(3)
    threading.Timer(float(env["DIES_AFTER"]), die).start()
time.sleep(float(env.get("SLOW_START", "0")))
release = int(env.get("DEIS_RELEASE", "v0")[1:])
about = json.dumps({"release": release, "container": os.uname().nodename}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Idle connections are closed after so many seconds.
    timeout = float(env["IDLE_CLOSE"]) if env.get("IDLE_CLOSE") else None

    def answer(self, body=about, status=200):
        # In one piece: nothing here waits for an acknowledgement.
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/health" and env.get("SICK"):
            self.answer(b"sick\n", 500)
        elif url.path == "/slow":
            time.sleep(float(parse_qs(url.query).get("s", ["1"])[0]))
            self.answer()
        elif self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.end_headers()
            self.close_connection = True
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
        else:
            self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.answer()

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 1024


if env.get("MUTE"):
    print("told to open no port", flush=True)
    threading.Event().wait()
server = Server(("", int(env["PORT"])), Handler)


def stop(*_):
    print("told to stop", flush=True)
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
server.serve_forever(poll_interval=0.05)
# Whatever is still being answered here is lost: a router has to have drained it.
os._exit(0)
