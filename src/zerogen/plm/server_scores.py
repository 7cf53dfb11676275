"""Scores of texts from a server, by whichever way it has to tell them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from zerogen.errors import ServerFailed, UserError
from zerogen.plm.abilities import accepted, alternatives_body, echo_body, grammar_body, prompt_fields
from zerogen.plm.client import Call, Failure
from zerogen.plm.server import Server
from zerogen.support.progress import Progress

_ALTERNATIVES, _ALL = 500, 1 << 20  # to a token that a grammar does not take, of which hardly any is a rarer one
_TOP, _LLAMA_TOP = 20, 500  # alternatives to a first token that are asked for: the most that the OpenAI API allows


class EchoServer(Server):
    """A server that returns a prompt with the log-probabilities of its tokens (vLLM, SGLang)."""

    def logprob(
        self,
        prompts: Sequence[str],
        *,
        begins: Sequence[int] | None = None,
        total: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Score texts, see `zerogen.plm.protocol.Scorer`."""
        places = list(begins) if begins is not None else [0] * len(prompts)

        def ask(missing: Sequence[int]) -> Iterator[tuple[int, tuple[float, int]]]:
            for place, scored in self._score(prompts, places, missing):
                if scored[0] != scored[0]:
                    raise FloatingPointError(f"{self.name}: a score is NaN")
                yield place, scored

        key = [self.abilities.scores, prompts, places]
        for place, (sums, count) in self.answers("scores", key, len(prompts), ask, "scoring texts", progress):
            yield place, sums if total else sums / count

    def _score(
        self, prompts: Sequence[str], begins: Sequence[int], places: Sequence[int]
    ) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield (place, (sum of the log-probabilities of the tokens that count, their number))."""
        bodies = [echo_body(self.abilities.model, prompts[place], special=not self.frame.chat) for place in places]
        for index, answer in self.client.send([Call("/completions", body) for body in bodies]):
            place = places[index]
            tokens, logprobs = self.part(answer, _echoed)
            self._count(len(tokens))
            if begins[place] and not "".join(tokens).endswith(prompts[place]):
                raise ServerFailed(f"{self.client.url}: the tokens that it returns are not those of the text")
            lengths = [len(token) for token in tokens]
            yield place, _sum_from(_first(lengths, len(prompts[place]) - begins[place]), logprobs, self.name)

    def _count(self, tokens: int) -> None:
        self.usage.tokens_in += tokens
        self.tokens += tokens


class GrammarServer(EchoServer):
    """A llama.cpp server, which is made to write a given text token by token, and tells how probable each one was."""

    def _score(
        self, prompts: Sequence[str], begins: Sequence[int], places: Sequence[int]
    ) -> Iterator[tuple[int, tuple[float, int]]]:
        # The template that llama.cpp shows lacks the token that begins all texts, where there is one.
        fields = {"add_special": True, "parse_special": True, "with_pieces": True}
        cut = [Call("../tokenize", {"content": prompts[place], **fields}) for place in places]
        texts: dict[int, _Forced] = {}
        for index, answer in self.client.send(cut):
            place = places[index]
            tokens = self.part(
                answer, lambda answer: [{"id": one["id"], "piece": one["piece"]} for one in answer["tokens"]]
            )
            counted = len(prompts[place][begins[place] :].encode())
            first = _first([_bytes_of(token["piece"]) for token in tokens], counted) if begins[place] else 1
            if not 2 <= len(tokens) <= self.abilities.positions:
                raise ValueError(f"{self.name}: cannot score {len(tokens)} tokens: {prompts[place][:60]!r}")
            texts[place] = _Forced([token["id"] for token in tokens], list(_spans(tokens, first)))
        # Neighbours that begin alike are read from the server's cache.
        order = sorted(texts, key=lambda place: texts[place].ids)
        spans = [(place, start, stop) for place in order for start, stop, takes in texts[place].spans if takes]
        bodies = [grammar_body(texts[place].ids, start, stop) for place, start, stop in spans]
        for index, answer in self.client.send([Call("../completion", body) for body in bodies]):
            place, start, stop = spans[index]
            text, written = texts[place], self._written(answer)
            if [token["id"] for token in written] != text.ids[start:stop]:
                raise ServerFailed(f"{self.client.url}: it did not write the tokens that it was made to write")
            text.logprobs += [token["logprob"] for token in written]
            yield from self._finished(place, text)
        alone = [(place, start) for place in order for start, _, takes in texts[place].spans if not takes]
        for number in (_ALTERNATIVES, _ALL):
            letter, left = self._letter() if alone else 0, []
            bodies = [alternatives_body(texts[place].ids, start, letter, number) for place, start in alone]
            for index, answer in self.client.send([Call("../completion", body) for body in bodies]):
                place, start = alone[index]
                text = texts[place]
                known = self.part(answer, _alternatives_by_id)
                if text.ids[start] in known:
                    text.logprobs.append(known[text.ids[start]])
                    yield from self._finished(place, text)
                else:
                    left.append((place, start))
            alone = left
        if alone:
            raise ServerFailed(f"{self.client.url}: it does not tell how probable every token was")

    def _finished(self, place: int, text: _Forced) -> Iterator[tuple[int, tuple[float, int]]]:
        if len(text.logprobs) == text.spans[-1][1] - text.spans[0][0]:
            self._count(len(text.ids))
            yield place, (sum(text.logprobs), len(text.logprobs))

    def _written(self, answer: Any) -> list[dict[str, Any]]:
        written: list[dict[str, Any]] = self.part(
            answer,
            lambda answer: [{"id": one["id"], "logprob": one["logprob"]} for one in answer["completion_probabilities"]],
        )
        return written

    def _letter(self) -> int:
        token: int = self.part(self.client.one(Call("../tokenize", {"content": "a"})), lambda said: said["tokens"][-1])
        return token


@dataclass
class _Forced:
    """A text that a server is made to write: its tokens, and the spans of those that count.

    A span is (start, stop, whether a grammar takes it).
    """

    ids: list[int]
    spans: list[tuple[int, int, bool]]
    logprobs: list[float] = field(default_factory=list)


def _spans(tokens: Sequence[dict[str, Any]], first: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the longest spans of tokens that a grammar takes, from number `first` on, and each other token alone."""
    places = range(first, len(tokens))
    for takes, group in groupby(places, key=lambda place: _in_grammar(tokens[place]["piece"])):
        members = list(group)
        if takes:
            yield members[0], members[-1] + 1, True
        else:
            yield from ((place, place + 1, False) for place in members)


def _in_grammar(piece: str | list[int]) -> bool:
    """Tell whether a grammar takes a token: not one of half a character, nor a special one, which may end a text."""
    return isinstance(piece, str) and not (len(piece) > 2 and piece[0] == "<" and piece[-1] == ">")


class LabelServer(Server):
    """A server of which only the log-probabilities of the most probable tokens are known: it compares first tokens."""

    def label_logprobs(
        self, prompts: Sequence[str], words: Sequence[str], progress: Progress | None = None
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield (index, log-probability that each word comes next, by its first token), in any order.

        A word that is not among the 20 most probable tokens (500 of llama.cpp) counts as much as the last of them.
        Raises `UserError` for words that begin with the same token.
        """
        chat = not self.abilities.completions
        more = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "model": self.abilities.model}
        top = _LLAMA_TOP if self.abilities.kind == "llama.cpp" else _TOP
        more |= {"logprobs": True, "top_logprobs": top} if chat else {"logprobs": top}

        def ask(missing: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
            calls = []
            for place in missing:
                fields = prompt_fields(
                    self._question(prompts[place], words), self.abilities.kind, self.frame, self.config.system
                )
                body = accepted(fields | more, self.abilities.refused)
                calls.append(Call("/chat/completions" if chat else "/completions", body))
            for index, answer in self.client.send(calls):
                self.usage.chats += self.frame.chat
                if isinstance(answer, Failure) and 400 <= answer.status < 500:  # of this text alone
                    self.say(f"{self.client.url}: no label for a text: {answer.reason}")
                    yield missing[index], [0.0] * len(words)
                    continue
                alternatives = self.part(answer, _alternatives)
                self.count_usage(answer)
                yield missing[index], self._by_word(alternatives, words)

        yield from self.answers("labels", [prompts, words], len(prompts), ask, "asking for labels", progress)

    def _question(self, prompt: str, words: Sequence[str]) -> str:
        """Return a prompt as it is; where an answer cannot be begun, with it and all words in the user's turn."""
        if not self.plain_request:
            return prompt
        user, _, begun = prompt.rpartition(self.frame.suffix)
        return self.frame.wrap(f"{user}\n{begun} ...\n(Answer with the next word: {', '.join(words)})", "")

    def _by_word(self, alternatives: dict[str, float], words: Sequence[str]) -> list[float]:
        if not alternatives:
            raise ServerFailed(f"{self.client.url}: an answer without top_logprobs")
        least = min(alternatives.values())
        by_word: list[list[float]] = [[] for _ in words]
        shared = -math.inf
        for token, logprob in alternatives.items():
            begun = token.strip().casefold()
            means = [place for place, word in enumerate(words) if begun and word.strip().casefold().startswith(begun)]
            if len(means) == 1:
                by_word[means[0]].append(logprob)
            elif len(means) > 1:  # which says nothing of either
                shared = max(shared, logprob)
        found = [_logsumexp(logprobs) if logprobs else least for logprobs in by_word]
        if shared > max(found):
            raise UserError(
                f"plm.scoring=label_tokens: {', '.join(words)}: some begin with the same token; give the labels other "
                "words in task.further_scoring"
            )
        return found


def _echoed(answer: Any) -> tuple[list[str], list[float | None]]:
    said = answer["choices"][0]["logprobs"]
    return [str(token) for token in said["tokens"]], [value and float(value) for value in said["token_logprobs"]]


def _alternatives_by_id(answer: Any) -> dict[int, float]:
    first = answer["completion_probabilities"][0]
    return {int(one["id"]): float(one["logprob"]) for one in first["top_logprobs"]}


def _alternatives(answer: Any) -> dict[str, float]:
    """Return the most probable first tokens and their log-probabilities, in either layout."""
    said = answer["choices"][0]["logprobs"]
    if "content" in said:
        return {str(one["token"]): float(one["logprob"]) for one in said["content"][0]["top_logprobs"]}
    return {str(token): float(logprob) for token, logprob in said["top_logprobs"][0].items()}


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def _bytes_of(piece: str | list[int]) -> int:
    return len(piece.encode()) if isinstance(piece, str) else len(piece)


def _first(lengths: Sequence[int], counted: int) -> int:
    """Return the index, 1 or more, of the first token that reaches into the last `counted` units of a text.

    lengths: of the tokens, in the same units. Counted from the end: special tokens may stand before the text.
    """
    left = sum(lengths)
    for index, length in enumerate(lengths):
        left -= length
        if left < counted:
            return max(1, index)
    return max(1, len(lengths) - 1)


def _sum_from(first: int, logprobs: Sequence[float | None], name: str) -> tuple[float, int]:
    counted = [value for value in logprobs[first:] if value is not None]
    if not counted:
        raise ValueError(f"{name}: cannot score a text of fewer than two tokens")
    return sum(counted), len(counted)
