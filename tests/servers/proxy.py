"""An HTTP proxy in front of a server that answers in its place, for a number of requests, in ways that servers fail."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

# What is done to a request in place of passing it on: takes its handler, its number from 0 on and its body.
Fault = Callable[["Handler", int, dict[str, Any]], bool]


@dataclass
class Proxy:
    """A running proxy: its address, and when which requests for texts and scores came."""

    url: str = ""
    fault: Fault = lambda handler, number, body: False
    times: list[float] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Passes requests on, but for those that the proxy's fault takes."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy
    target: str
    lock = threading.Lock()

    def do_GET(self) -> None:
        """Pass a request for what the server is on."""
        self._pass_on(httpx.get(self.target + self.path, timeout=60, headers=self._key()))

    def do_POST(self) -> None:
        """Pass a request on, or fail it."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(content)
        if "completion" in self.path:
            with self.lock:
                number = len(self.proxy.times)
                self.proxy.times.append(time.monotonic())
                self.proxy.bodies.append(body)
                self.proxy.headers.append(dict(self.headers))
            if self.proxy.fault(self, number, body):
                return
        self._pass_on(httpx.post(self.target + self.path, content=content, timeout=60, headers=self._key()))

    def answer(self, status: int, content: bytes, **headers: str) -> bool:
        """Answer in place of the server."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True

    def hang_up(self) -> bool:
        """Break the connection without an answer."""
        self.close_connection = True
        return True

    def _key(self) -> dict[str, str]:
        said = self.headers.get("Authorization")
        return {"Content-Type": "application/json"} | ({"Authorization": said} if said else {})

    def _pass_on(self, response: httpx.Response) -> None:
        self.answer(response.status_code, response.content, Content_Type="application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that waits no longer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def proxy_of(url: str) -> Iterator[Proxy]:
    """Run a proxy in front of a server whose API is at `url`."""
    proxy = Proxy()
    handler = type("Bound", (Handler,), {"proxy": proxy, "target": url.removesuffix("/v1")})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
