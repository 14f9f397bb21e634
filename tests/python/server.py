"""Starts the server under test as a process group of its own, and ends it."""

import os
import signal
import subprocess

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SECONDS = 20


class Server:
    """`command` is a shell command line that prints `listening on URL` first."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command, shell=True, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
        )
        line = self.process.stdout.readline()
        self.url = line.strip().removeprefix("listening on ")
        assert self.url.startswith("http://127.0.0.1:"), line

    def stop(self, number=signal.SIGTERM):
        os.killpg(self.process.pid, number)
        self.process.wait(SECONDS)
        self.process.stdout.close()
