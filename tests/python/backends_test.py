"""Workers of the gateway with python-socketio's client, and webhooks checked by the code of
examples/backends.

CORECAST_GATEWAY_CMD is a shell command such as `target/debug/corecast`, to which `serve` and its
options are appended.
    python -m unittest -v backends_test
"""

import http.server
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import unittest

import socketio

from server import ROOT, SECONDS, Server

sys.path.insert(0, os.path.join(ROOT, "examples", "backends"))
from verify import comes_from_corecast  # noqa: E402

KEY = "a key for workers in tests"
SECRET = "a secret of webhooks"
CONFIG = """
[[namespace]]
name = "/"
[[namespace.route]]
event = "sum"
do = "webhook"
webhook = "app"
[[namespace.route]]
event = "*"
do = "worker"

[[webhook]]
name = "app"
url = "http://127.0.0.1:%d/hook"
secret = "%s"

[workers]
[[workers.key]]
name = "tests"
key = "%s"
"""

gateway = None
url = None
folder = None
backend = None
requests = queue.Queue()


class Hook(http.server.BaseHTTPRequestHandler):
    """A webhook that adds numbers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        requests.put(({name.lower(): value for name, value in self.headers.items()}, body))
        answer = json.dumps(sum(json.loads(body)["args"])).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def setUpModule():
    global gateway, url, folder, backend
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "corecast.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONFIG % (backend.server_port, SECRET, KEY))
    command = os.environ["CORECAST_GATEWAY_CMD"]
    command += f" serve --config '{path}' --listen 127.0.0.1:0 --api 127.0.0.1:0"
    gateway = Server(command)
    url = gateway.url


def tearDownModule():
    gateway.stop(signal.SIGINT)
    backend.shutdown()
    backend.server_close()
    folder.cleanup()


def connect(namespace="/", auth=None, **handlers):
    client = socketio.Client(reconnection=False)
    for name, handler in handlers.items():
        client.on(name, handler, namespace=namespace)
    client.connect(url, namespaces=[namespace], auth=auth, wait_timeout=SECONDS)
    return client


def worker(name, **handlers):
    auth = {"key": KEY, "name": name, "events": ["*"]}
    return connect("/workers", auth, **handlers)


class Workers(unittest.TestCase):
    def test_an_event_is_answered_by_what_the_handler_returns(self):
        app = worker("app", event=lambda work: (work["event"], work["args"][1] + b"\x03"))
        ada = connect()
        try:
            answer = ada.call("work", ({"n": 1}, b"\x01\x02"), timeout=SECONDS)
            self.assertEqual(list(answer), ["work", b"\x01\x02\x03"])
        finally:
            ada.shutdown()
            app.shutdown()

    def test_a_wrong_key_is_refused(self):
        with self.assertRaises(socketio.exceptions.ConnectionError) as refused:
            connect("/workers", {"key": "no key of anybody", "name": "x"})
        # The client keeps what it was told to itself.
        self.assertIn("/workers", str(refused.exception))

    def test_workers_act_on_clients(self):
        heard = queue.Queue()
        app = worker("app")
        ada = connect(news=lambda *data: heard.put(data))

        def ask(event, data):
            return app.call(event, data, namespace="/workers", timeout=SECONDS)

        try:
            target = {"sockets": [ada.get_sid()]}
            self.assertEqual(ask("join", {**target, "join": ["room"]})["result"]["sockets"], 1)
            ask("emit", {"rooms": ["room"], "event": "news", "args": [1, b"\x09"]})
            self.assertEqual(heard.get(timeout=SECONDS), (1, b"\x09"))
            self.assertEqual(ask("emit", {"rooms": ["room"]})["error"]["status"], 422)
            self.assertEqual(ask("kick", target)["result"]["sockets"], 1)
        finally:
            ada.shutdown()
            app.shutdown()

    def test_two_share_the_work_and_one_takes_over(self):
        held, shared = queue.Queue(), queue.Queue()
        answers, again = queue.Queue(), queue.Queue()
        # Nobody answers until each has its share.
        go, never = threading.Event(), threading.Event()

        def hold(work):
            held.put(work["id"])
            never.wait(SECONDS)

        def answer(work):
            (again if work["redelivered"] else shared).put(work["id"])
            go.wait(SECONDS)
            return work["args"][0]

        one, two = worker("pair", event=hold), worker("pair", event=answer)
        clients = [connect() for _ in range(6)]
        try:
            for number, client in enumerate(clients):
                client.emit("work", number, callback=answers.put)
            left = {held.get(timeout=SECONDS) for _ in range(3)}
            self.assertEqual(len({shared.get(timeout=SECONDS) for _ in range(3)}), 3)
            # The connection itself ends, and the handlers go on waiting.
            one.eio.disconnect(abort=True)
            go.set()
            got = {answers.get(timeout=SECONDS) for _ in clients}
            self.assertEqual(got, set(range(6)))
            self.assertEqual({again.get(timeout=SECONDS) for _ in left}, left)
        finally:
            never.set()
            for client in clients:
                client.shutdown()
            two.shutdown()
            one.shutdown()


class Webhooks(unittest.TestCase):
    def test_requests_are_verified_by_the_code_of_the_examples(self):
        ada = connect()
        try:
            self.assertEqual(ada.call("sum", (1, 2, 3), timeout=SECONDS), 6)
        finally:
            ada.shutdown()
        headers, body = requests.get(timeout=SECONDS)
        self.assertTrue(comes_from_corecast(SECRET, headers, body))
        self.assertFalse(comes_from_corecast("wrong", headers, body))
        self.assertFalse(comes_from_corecast(SECRET, headers, body + b" "))
        late = str(int(headers["webhook-timestamp"]) - 400)
        self.assertFalse(comes_from_corecast(SECRET, {**headers, "webhook-timestamp": late}, body))
        self.assertFalse(comes_from_corecast(SECRET, {}, body))


if __name__ == "__main__":
    unittest.main()
