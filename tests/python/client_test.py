"""python-socketio, a client that shares no code with the JavaScript one, against the server of the
end-to-end tests (the table in tests/npm/fixture.mjs says what each event does).

CORECAST_E2E_CMD is a shell command that starts it; `--listen 127.0.0.1:0` is appended.
    python -m unittest -v client_test
"""

import os
import queue
import time
import unittest

import socketio

from server import SECONDS, Server

server = None
url = None


def setUpModule():
    global server, url
    server = Server(os.environ["CORECAST_E2E_CMD"] + " --listen 127.0.0.1:0")
    url = server.url


def tearDownModule():
    server.stop()


class Client:
    """A client that keeps what it hears, by event and namespace."""

    def __init__(self, transports, namespaces=("/",), auth=None, **options):
        options.setdefault("reconnection", False)
        self.io = socketio.Client(**options)
        self.heard = queue.Queue()
        for namespace in namespaces:
            self.io.on("*", self.catch_all(namespace), namespace=namespace)
            for event in ("connect", "disconnect", "connect_error"):
                self.io.on(event, self.note(event, namespace), namespace=namespace)
        self.transports = transports
        self.namespaces = list(namespaces)
        self.auth = auth

    def catch_all(self, namespace):
        return lambda event, *data: self.heard.put((namespace, event, data))

    def note(self, event, namespace):
        return lambda *data: self.heard.put((namespace, event, data))

    def __enter__(self):
        self.io.connect(
            url,
            transports=self.transports,
            namespaces=self.namespaces,
            auth=self.auth,
            wait_timeout=SECONDS,
        )
        return self

    def __exit__(self, *_):
        self.io.shutdown()

    def next(self, event, namespace="/"):
        """The data of the next event of that name; others in between are passed over."""
        while True:
            where, name, data = self.heard.get(timeout=SECONDS)
            if (where, name) == (namespace, event):
                return data

    def settle(self):
        """Waits until all is sent. This client forgets what it has yet to send, its goodbye too, if
        it is told to leave while it still reads the response to a POST."""
        end = time.monotonic() + SECONDS
        while not self.io.eio.queue.not_empty._waiters:
            if time.monotonic() > end:
                raise AssertionError("it does not come to rest")
            time.sleep(0.001)

    def ask(self, event, data=None, namespace="/"):
        return self.io.call(event, data, namespace=namespace, timeout=SECONDS)


class Conversation:
    """What holds on every transport."""

    transports = None

    def client(self, **options):
        return Client(self.transports, **options)

    def test_events_and_the_transport(self):
        with self.client() as one:
            self.assertIsNone(one.next("welcome")[0]["user"])
            one.io.emit("echo", ("ö", {"a": [1, None]}, True, 1.5))
            self.assertEqual(one.next("echo"), ("ö", {"a": [1, None]}, True, 1.5))
            self.assertEqual(one.io.transport(), self.ends_on)

    def test_acknowledgements_both_ways(self):
        with self.client() as one:
            self.assertEqual(one.ask("echo:ack", {"n": 1}), {"n": 1})
            one.io.on("question", lambda data: ("answer to", data))
            one.io.emit("ask:me", ("life", 10_000))
            result = one.next("ask:result")[0]
            self.assertEqual(result, {"ok": True, "answers": ["answer to", "life"]})

    def test_binary(self):
        with self.client() as one:
            sent = {"a": b"\x00\x01\xff", "b": [b"", b"x" * 100_000]}
            one.io.emit("echo", sent)
            self.assertEqual(one.next("echo"), (sent,))
            self.assertEqual(one.ask("echo:ack", b"\x01\x02"), b"\x01\x02")
            made = one.io.emit("binary:make", 300) or one.next("binary:made")[0]
            self.assertEqual(made["bytes"], bytes(i & 255 for i in range(300)))

    def test_rooms_and_broadcasts(self):
        with self.client() as one, self.client() as other:
            self.assertIn("room", one.ask("join", "room"))
            other.io.emit("relay", ("room", "hello", b"\x07"))
            self.assertEqual(one.next("relay"), ("hello", b"\x07"))
            one.io.emit("all", "everybody")
            self.assertEqual((one.next("all"), other.next("all")), (("everybody",), ("everybody",)))

    def test_namespaces_with_auth(self):
        both = ("/", "/admin")
        with self.client(namespaces=both, auth={"token": "secret"}) as one:
            self.assertEqual(one.next("welcome", "/admin")[0]["nsp"], "/admin")
            self.assertEqual(one.ask("data:get", "role", namespace="/admin"), "admin")
            self.assertNotEqual(one.io.get_sid("/"), one.io.get_sid("/admin"))
        refused = self.client(namespaces=("/admin",), auth={"token": "wrong"})
        with self.assertRaises(socketio.exceptions.ConnectionError):
            refused.__enter__()
        error = refused.next("connect_error", "/admin")[0]
        self.assertEqual(error["message"], "not authorized")
        self.assertEqual(error["data"]["code"], 401)
        unknown = self.client(namespaces=("/nowhere",))
        with self.assertRaises(socketio.exceptions.ConnectionError):
            unknown.__enter__()
        self.assertEqual(unknown.next("connect_error", "/nowhere")[0]["message"], "Invalid namespace")

    def test_disconnecting_from_either_side(self):
        with self.client(namespaces=("/", "/notifications")) as watcher, self.client() as one:
            sid = one.io.get_sid()
            one.settle()
            one.io.disconnect()
            while (told := watcher.next("peer:disconnect", "/notifications")[0])["id"] != sid:
                pass
            self.assertIn(told["reason"], ("client namespace disconnect", "transport close"))
        with self.client() as one:
            one.io.emit("disconnect:me", False)
            self.assertEqual(one.next("disconnect"), (one.io.reason.SERVER_DISCONNECT,))

    def test_reconnecting(self):
        options = {"reconnection": True, "reconnection_delay": 0.05, "randomization_factor": 0}
        with self.client(**options) as one:
            first = one.next("welcome")[0]["id"]
            one.io.emit("drop")
            one.next("disconnect")
            self.assertNotEqual(one.next("welcome")[0]["id"], first)
            self.assertEqual(one.ask("echo:ack", 1), 1)


class Polling(Conversation, unittest.TestCase):
    transports = ["polling"]
    ends_on = "polling"

    def test_reconnecting(self):
        """On polling this client takes a close of the server for its own, so it is asked to."""
        with self.client() as one:
            first = one.next("welcome")[0]["id"]
            one.io.emit("drop")
            one.next("disconnect")
            one.__enter__()
            self.assertNotEqual(one.next("welcome")[0]["id"], first)
            self.assertEqual(one.ask("echo:ack", 1), 1)


class WebSocket(Conversation, unittest.TestCase):
    transports = ["websocket"]
    ends_on = "websocket"


class Upgrade(Conversation, unittest.TestCase):
    transports = None
    ends_on = "websocket"


if __name__ == "__main__":
    unittest.main()
