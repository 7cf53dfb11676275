"""Start a server as a process of its own, and wait until it answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

LLAMA = Path(__file__).with_name("llama_server.py")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class ServerProcess:
    """A server that can be killed and started again at the same address."""

    def __init__(self, command: Sequence[str], port: int, log: Path, seconds: float = 60) -> None:
        self.command, self.log, self.seconds = list(command), log, seconds
        self.url = f"http://127.0.0.1:{port}/v1"
        self.process: subprocess.Popen[bytes] | None = None
        self.name = ""

    def start(self) -> None:
        """Start it. Raises RuntimeError where it does not answer in time."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(int(self.seconds * 10)):
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/models", timeout=5).status_code in (200, 401):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"{self.command}: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """Kill it, and the processes that it has started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
