"""python-socketio under the contract of the bench harness (its README, "Contract").

One process, one event loop (uvloop), aiohttp: see the README for why.
"""

import argparse

import socketio
import uvloop
from aiohttp import web

arguments = argparse.ArgumentParser()
arguments.add_argument("--listen", default="127.0.0.1:4000")
arguments.add_argument("--ping-interval", type=int, default=25_000, help="milliseconds")
arguments = arguments.parse_args()
host, port = arguments.listen.split(":")

io = socketio.AsyncServer(
    async_mode="aiohttp",
    # Handlers here wait for nothing but sends; without a task each they cost less.
    async_handlers=False,
    http_compression=False,
    ping_interval=arguments.ping_interval / 1000,
)


@io.event
async def pub(sid, data):
    await io.emit("msg", data)


@io.event
async def to(sid, room, data):
    await io.emit("msg", data, room=room)


@io.event
async def echo(sid, data):
    await io.emit("echo", data, to=sid)


@io.event
async def join(sid, room):
    await io.enter_room(sid, room)
    return ()


@io.event
async def leave(sid, room):
    await io.leave_room(sid, room)
    return ()


app = web.Application()
io.attach(app)
uvloop.install()
web.run_app(app, host=host, port=int(port), backlog=4096, access_log=None, print=None)
