"""Serve texts that depend on nothing but a request, until killed: `python scripted_server.py PORT`."""

import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ["a", "dull", "lovely", "film", "about", "one", "bird", "and", "the", "night", "of", "old", "roads", "twice"]
_SECONDS = 0.02  # that an answer takes


class Handler(BaseHTTPRequestHandler):
    """Answers as a server of completions that also scores given texts (echo)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the only model."""
        self._answer({"data": [{"id": "scripted", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        """Write a text, or score a given one."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(_SECONDS)
        draws = random.Random(f"{body.get('seed')} {body['prompt']}")
        if body.get("echo"):
            words = body["prompt"].split(" ")
            tokens = [words[0], *(f" {word}" for word in words[1:])]
            logprobs: list[Any] = [None, *(-5 * draws.random() for _ in tokens[1:])]
            text, reason = body["prompt"], "length"
        else:
            tokens = [f" {draws.choice(WORDS)}" for _ in range(draws.randrange(3, 15))][: body["max_tokens"]]
            logprobs = [-5 * draws.random() for _ in tokens]
            text, reason = "".join(tokens).strip(), "stop" if len(tokens) < body["max_tokens"] else "length"
        choice = {"text": text, "finish_reason": reason, "logprobs": {"tokens": tokens, "token_logprobs": logprobs}}
        usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": len(tokens)}
        self._answer({"model": "scripted", "choices": [choice], "usage": usage})

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""


if __name__ == "__main__":
    _Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
