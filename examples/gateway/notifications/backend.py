"""The backend of the notifications, with Python's standard library alone.

GET  /login?user=ada       a token for the gateway, signed with the secret that both know
POST /notify?user=ada      the body becomes a notification on every device of that user
"""

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("TOKEN_SECRET", "a secret of this example, 32 bytes long").encode()
API = os.environ.get("API", "http://127.0.0.1:4001")
PORT = int(os.environ.get("PORT", "8000"))
PAGES = ["http://localhost:4000", "http://127.0.0.1:4000"]


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(user):
    """A JSON web token (HS256) that holds for an hour."""
    head = base64url(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = base64url(json.dumps({"sub": user, "exp": int(time.time()) + 3600}).encode())
    signature = hmac.new(SECRET, head + b"." + claims, hashlib.sha256).digest()
    return b".".join([head, claims, base64url(signature)]).decode()


def notify(user, text):
    """Sends an event to all sockets of a user, by one request to the gateway."""
    command = {"users": [user], "event": "notification", "args": [{"text": text, "at": time.time()}]}
    request = urllib.request.Request(
        API + "/v1/emit", json.dumps(command).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=5).read()


class Handler(BaseHTTPRequestHandler):
    def user(self):
        query = urllib.parse.urlparse(self.path).query
        return urllib.parse.parse_qs(query).get("user", ["nobody"])[0]

    def answer(self, body):
        self.send_response(200)
        # The page comes from the gateway, another origin than this.
        if self.headers.get("Origin") in PAGES:
            self.send_header("Access-Control-Allow-Origin", self.headers["Origin"])
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        # An application checks a password here.
        self.answer(token(self.user()))

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        notify(self.user(), self.rfile.read(length).decode())
        self.answer("sent\n")


if __name__ == "__main__":
    print(f"the backend is at http://127.0.0.1:{PORT}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
