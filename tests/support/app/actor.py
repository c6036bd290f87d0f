"""An app that behaves as its config says: slow to start, ill, mute, mortal, or just fine.

One thread and no framework: what is measured is the way to it, not itself."""
import asyncio, json, os, signal, time

env = os.environ
if env.get("CRASH"):
    raise SystemExit("told to crash")
born = time.monotonic()
time.sleep(float(env.get("SLOW_START", "0")))
release = int(env.get("DEIS_RELEASE", "v0")[1:])
about = json.dumps({"release": release, "container": os.uname().nodename}).encode()
# Idle connections are closed after so many seconds.
idle_close = float(env.get("IDLE_CLOSE", "0"))


def reply(body=about, status="200 OK"):
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


OK, SICK = reply(), reply(b"sick\n", "500 Sick")


class Client(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got, self.tunnel, self.timer = transport, b"", False, None
        self.idle()

    def connection_lost(self, _):
        self.busy()

    def busy(self):
        if self.timer:
            self.timer.cancel()

    def idle(self):
        self.busy()
        if idle_close:
            self.timer = loop.call_later(idle_close, self.transport.close)

    def data_received(self, data):
        if self.tunnel:
            self.transport.write(data)
            return
        self.got += data
        head, end, rest = self.got.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1]
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self.got = rest[length:]
        self.busy()
        if "upgrade" in headers:
            self.tunnel = True
            protocol = headers["upgrade"].encode()
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % protocol)
        elif path.startswith("/slow?s="):
            loop.call_later(float(path[8:]), self.answer, OK)
        else:
            self.answer(SICK if path == "/health" and env.get("SICK") else OK)

    def answer(self, text):
        self.transport.write(text)
        self.idle()


def die():
    print("told to die", flush=True)
    os._exit(3)


def stop():
    # What is still being answered is lost: the routers have to have drained it.
    print("told to stop", flush=True)
    loop.stop()


loop = asyncio.new_event_loop()
loop.add_signal_handler(signal.SIGTERM, stop)
if env.get("DIES_AFTER"):
    loop.call_later(float(env["DIES_AFTER"]) - (time.monotonic() - born), die)
if env.get("MUTE"):
    print("told to open no port", flush=True)
else:
    loop.run_until_complete(loop.create_server(Client, "", int(env["PORT"]), backlog=1024))
loop.run_forever()
