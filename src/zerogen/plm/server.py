"""A PLM behind a server that speaks the OpenAI API: completions and chat, over HTTP."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import SERVER, PlmConfig
from zerogen.data.records import Continuation, Stop, derive
from zerogen.errors import ServerFailed, UserError
from zerogen.plm.abilities import Abilities, abilities_of, accepted, logprobs_of, prompt_fields, text_of
from zerogen.plm.client import MISSHAPEN, Call, Client, Failure
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Usage, Writer
from zerogen.support.files import append_line
from zerogen.support.hashes import short_hash
from zerogen.support.progress import Progress

if TYPE_CHECKING:
    import torch

_MOST_STOPS = 4  # of a request, by the OpenAI API
_UNIT = re.compile(r"[\x01-\x7f]{1,3}|[^\x01-\x7f]", re.DOTALL)
_QUOTED = re.compile(r"(?:[^\"“\n]*:)?\s*[\"“]([^\"“”]+)[\"”]\W*", re.DOTALL)  # a reply that is a quote


class Unfinished:
    """Answers of a chunk, or of a set of texts to score, that is not finished: a server's are not had twice.

    folder: where they lie, a file for each, until whoever stores them elsewhere deletes it; None: nowhere.
    key: all that shapes them.
    usage: of the server so far.
    """

    def __init__(self, folder: Path | None, name: str, key: object, usage: Usage) -> None:
        self.usage, self.before = usage, usage.copy()
        self.path = None if folder is None else folder / f"{name}-{short_hash(key)}.part"

    def read(self) -> tuple[dict[int, Any], Counter[str]]:
        """Return the answers by their number, and what they took; those of damaged lines are lost."""
        found: dict[int, Any] = {}
        usage: Counter[str] = Counter()
        if self.path is not None and self.path.is_file():
            for line in self.path.read_bytes().splitlines():
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    entry = json.loads(line)
                    found[int(entry["place"])] = entry["answer"]
                    usage.update(entry["usage"])
        return found, usage

    def add(self, place: int, answer: Any) -> None:
        """Store an answer, and what came to be used since the one before."""
        if self.path is not None:
            now = self.usage.copy()  # which goes on as this is written
            entry = {"place": place, "usage": now.since(self.before), "answer": answer}
            append_line(json.dumps(entry, ensure_ascii=False), self.path)
            self.before = now


class Server:
    """Writes texts through a server. Each is a request of its own; what a bad answer costs is that text alone.

    Rows are not the same from run to run: servers round differently from one batch to another, and not all read the
    seed. Tokens stay on the server: `encode` cuts texts into pieces of up to three letters, which are no fewer
    than its tokens in most texts; one that is longer all the same is refused by the server, which costs its row.

    folder: where answers of unfinished chunks are kept, so that a run that was stopped goes on; None: nowhere.
    """

    parallel = 1

    def __init__(self, config: PlmConfig, client: Client, abilities: Abilities) -> None:
        self.config, self.client, self.abilities = config, client, abilities
        self.name, self.frame = config.name, abilities.frame
        self.max_positions = abilities.positions - len(self.encode(self.frame.wrap("", "")))
        self.tokens, self.usage = 0, client.usage
        self.folder: Path | None = None
        self.say: Callable[[str], None] = lambda text: None
        self._warned = False
        self._counted: set[Path | None] = set()  # files of unfinished work whose usage is counted

    def encode(self, text: str) -> list[int]:
        """Return pieces of a text, each as a number: up to three ASCII letters, or one of another script."""
        return [int.from_bytes(piece.encode("utf-8", "surrogatepass"), "big") for piece in _UNIT.findall(text)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of pieces."""
        pieces = [unit.to_bytes((unit.bit_length() + 7) // 8 or 1, "big") for unit in ids]
        return "".join(piece.decode("utf-8", "replace") for piece in pieces)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Say what the server can do; call `say` with a line about each first failure from now on."""
        self.say = say
        say(f"{self.client.url}: {self.abilities}")

    def release(self) -> None:
        """Do nothing: the memory is the server's."""

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order. Raises `ServerFailed` where the server is gone.

        Raises `UserError` for requests with counter-prompts, which a server cannot be asked with.
        """
        for chunk in chunks:
            started, before = time.perf_counter(), self.usage.copy()
            self._refuse_counters(chunk)
            unfinished, answers = self._resumed(chunk.name, asdict(chunk))
            done = {place: Continuation(**fields) for place, fields in answers.items()}
            self.tokens += sum(one.tokens for one in done.values())
            on_row(len(done))
            missing = [place for place in range(len(chunk.requests)) if place not in done]
            calls = [self._call(chunk, place) for place in missing]
            for index, answer in self.client.send(calls, partial(self._continuation, stops=chunk.stops)):
                place = missing[index]
                self.usage.chats += self.frame.chat
                if isinstance(answer, Failure):
                    done[place] = self._failed(answer.reason)
                else:
                    done[place] = answer
                    unfinished.add(place, asdict(answer))
                on_row(1)
            usage = self.usage.since(before)
            continuations = [done[place] for place in range(len(chunk.requests))]
            tokens = sum(one.tokens for one in continuations)
            yield ChunkOutput(continuations, tokens, round(time.perf_counter() - started, 3), usage)

    def _resumed(self, name: str, key: object) -> tuple[Unfinished, dict[int, Any]]:
        """Return where answers are kept, and those that are there already; what these took is counted once."""
        unfinished = Unfinished(self.folder, name, [_identity(self.config), key], self.usage)
        answers, usage = unfinished.read()
        if unfinished.path not in self._counted:
            self._counted.add(unfinished.path)
            self.usage.add(usage)
            unfinished.before = self.usage.copy()
        return unfinished, answers

    def _refuse_counters(self, chunk: ChunkRequest) -> None:
        if any(request.counters for request in chunk.requests):
            raise UserError(
                f"plm.writer={SERVER}: no server compares prompts as it writes; allowed are task.debias.decay=0 "
                "and task.contrast.guidance=1"
            )

    def _call(self, chunk: ChunkRequest, place: int) -> Call:
        decoding, abilities, request = chunk.decoding, self.abilities, chunk.requests[place]
        greedy = decoding.top_k == 1
        body = {
            "model": abilities.model,
            "max_tokens": chunk.max_new_tokens,
            "temperature": 0.0 if greedy else decoding.temperature,
            "top_p": 1.0 if greedy else decoding.top_p,
            "seed": derive(chunk.seed, "server", place) % (1 << 31),
        }
        if stops := self._stops(chunk.stops):
            body["stop"] = stops[:_MOST_STOPS]
        body |= prompt_fields(request.prompt, abilities.kind, self.frame, self.config.system) | self.config.extra
        if abilities.kind == "vLLM":
            body["include_stop_str_in_output"] = True
        if decoding.top_k > 1:
            body["top_k"] = decoding.top_k
        return Call("/completions" if abilities.completions else "/chat/completions", accepted(body, abilities.refused))

    def _stops(self, stops: Sequence[Stop]) -> list[str]:
        """Return the strings at which the server is to stop; a text is cut at all of them once it has come."""
        if self.plain_request:  # a whole reply, of which the text is the quoted part
            return []
        if self.abilities.kind == "vLLM":
            return [stop.text for stop in stops]
        # Other servers drop the string without saying which one it was, so one that is to stay must not stop them.
        return [stop.text for stop in stops if not stop.keep]

    @property
    def plain_request(self) -> bool:
        """Whether the server goes on with no answer that has been begun, and so gets the whole prompt as a request."""
        return not self.abilities.continues

    def _continuation(self, answer: Any, stops: Sequence[Stop]) -> Continuation:
        """Return what an answer holds. Raises one of `MISSHAPEN` where it does not hold a text."""
        choice = answer["choices"][0]
        text, reason = text_of(answer), str(choice["finish_reason"])
        tokens = self.count_usage(answer)
        if reason not in ("stop", "length"):
            raise ValueError(f"finish_reason={reason}")
        if self.plain_request:
            text = text.strip()
            quoted = _QUOTED.fullmatch(text)
            text = quoted[1].strip() if quoted else text
            stops = [stop for stop in stops if stop.text != '"']  # others are part of the reply
        matches = [(text.index(stop.text), stop) for stop in stops if stop.text in text]
        if matches:
            place, stop = min(matches, key=lambda item: item[0])
            text, reason = text[: place + len(stop.text) * stop.keep], "stop"
        elif reason == "stop" and self.abilities.kind == "vLLM" and choice.get("stop_reason") is None:
            # The end of an answer in a chat, which nothing closes but that.
            reason = "stop" if self.frame.chat else "eos"
        logprobs = logprobs_of(answer)
        mean = sum(logprobs) / len(logprobs) if logprobs else None
        fingerprint = answer.get("system_fingerprint")
        model = Path(str(answer.get("model") or self.abilities.model)).name
        return Continuation(text, reason, tokens, mean, model=f"{model}@{fingerprint}" if fingerprint else model)

    def count_usage(self, answer: Any) -> int:
        """Count the tokens of an answer; return how many were written."""
        said = answer.get("usage")
        usage = said if isinstance(said, dict) else {}
        tokens_in, tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        self.usage.tokens_in += tokens_in
        self.usage.tokens_out += tokens
        self.tokens += tokens
        return tokens

    def part(self, answer: Any, of: Callable[[Any], Any]) -> Any:
        """Return a part of an answer. Raises ValueError for a text that the server refuses, else `ServerFailed`."""
        if isinstance(answer, Failure):
            if 400 <= answer.status < 500:
                raise ValueError(f"{self.name}: {answer.reason}")
            raise ServerFailed(f"{self.client.url}: {answer.reason}; run the same command again to go on")
        try:
            return of(answer)
        except MISSHAPEN as error:
            raise ServerFailed(f"{self.client.url}: an answer without {error}: {str(answer)[:80]}") from error

    def answers(
        self,
        name: str,
        key: object,
        count: int,
        ask: Callable[[Sequence[int]], Iterator[tuple[int, Any]]],
        title: str,
        progress: Progress | None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (place, answer) for each of `count` texts, first those that an earlier run has; keep the others.

        name, key: of what is asked. ask: takes places, and yields them with a JSON value each.
        """
        unfinished, done = self._resumed(name, key)
        with (progress or Progress()).bar(title, count, "texts") as advance:
            advance(len(done))
            yield from done.items()
            for place, answer in ask([place for place in range(count) if place not in done]):
                unfinished.add(place, answer)
                advance(1)
                yield place, answer

    def _failed(self, reason: str) -> Continuation:
        if not self._warned:
            self._warned = True
            self.say(f"{self.client.url}: a request failed, which costs its row: {reason}")
        return Continuation("", "failed", 0, None)


def open_server(config: PlmConfig, device: torch.device) -> Writer:
    """Open a server by what it can do: one that scores given texts, or the first tokens of labels, or only writes.

    Raises `UserError` where it does not answer, refuses the key or does not have the model.
    """
    from zerogen.plm.server_scores import EchoServer, GrammarServer, LabelServer

    client = Client(config)
    abilities = abilities_of(client, config)
    if config.scoring == "label_tokens":
        if not abilities.logprobs:
            raise UserError(
                f"plm.scoring=label_tokens: {client.url} tells no log-probabilities; allowed is auto, without PROMPTING"
            )
        return LabelServer(config, client, abilities)
    return {"echo": EchoServer, "grammar": GrammarServer, "": Server}[abilities.scores](config, client, abilities)


def _identity(config: PlmConfig) -> dict[str, Any]:
    """Return what of the configuration shapes rows: not where the server is, nor how often it is asked."""
    shaping = ("model", "chat", "system", "max_positions", "extra")
    return {name: getattr(config, name) for name in shaping if getattr(config, name) != getattr(PlmConfig(), name)}


open_server.identity = _identity  # type: ignore[attr-defined]
