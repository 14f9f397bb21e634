"""Tells all pages how many there are, whenever that has changed."""

import json
import os
import time
import urllib.request

API = os.environ.get("API", "http://127.0.0.1:4001")


def ask(path):
    return json.load(urllib.request.urlopen(API + path, timeout=5))


def emit(event, *args):
    command = json.dumps({"event": event, "args": args}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(API + "/v1/emit", command, headers)
    urllib.request.urlopen(request, timeout=5).read()


before = None
while True:
    sockets = [page["id"] for page in ask("/v1/sockets")["sockets"]]
    if sockets != before:
        emit("here", sockets)
        before = sockets
    time.sleep(0.5)
