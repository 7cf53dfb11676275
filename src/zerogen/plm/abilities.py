"""What a server can do, found out by a few small requests at the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zerogen.config.schema import PlmConfig
from zerogen.errors import UserError, unknown
from zerogen.plm.chat import CONSTANTS, PLAIN, TURNS, Frame, chat_frame, messages
from zerogen.plm.client import Client, Failure

# What `owned_by` of /v1/models says.
_KINDS = {"vllm": "vLLM", "llamacpp": "llama.cpp", "sglang": "SGLang", "library": "Ollama"}
_CONTINUE = ("vLLM", "SGLang", "llama.cpp", "Ollama")  # go on with an answer that has been begun
_POSITIONS = 4096  # where a server does not say how many tokens it reads
_COUNT = "1, 2, 3, 4, 5, 6,"
_SHORT = "The film is good."
_MAY_BE_REFUSED = ("logprobs", "seed", "max_tokens", "temperature", "top_p")


@dataclass(frozen=True)
class Abilities:
    """What a server can do.

    kind: which one it is, empty where it does not say. model: what it calls the PLM. positions: tokens of a prompt and
    what is written after it.
    completions: whether prompts are sent as they are, or with the frame of its chat template; else as turns of a chat.
    continues: whether it goes on with an answer that has been begun, in a chat.
    logprobs: whether it tells the log-probabilities of what it writes.
    scores: how it tells those of a given text: `echo`, `grammar`, or empty where it does not.
    refused: fields of requests that it refuses. ignored: those that it ignores.
    """

    kind: str
    model: str
    positions: int
    frame: Frame
    completions: bool
    continues: bool
    logprobs: bool
    scores: str
    refused: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say in one line what it can do."""
        scores = {
            "echo": "it scores given texts (echo)",
            "grammar": "it scores given texts (token grammar)",
            "": "it scores no given texts" + ("; plm.scoring=label_tokens is possible" if self.logprobs else ""),
        }[self.scores]
        route = "completions" if self.completions else "chat"
        template = " with its chat template" if self.completions and self.frame.chat else ""
        ignored = f"; it ignores {' and '.join(self.ignored)}" if self.ignored else ""
        where = f"{self.model} on {self.kind}" if self.kind else self.model
        return f"{where}: {self.positions:,} tokens, {route}{template}; {scores}{ignored}"


def abilities_of(client: Client, config: PlmConfig) -> Abilities:
    """Ask a server what it can do. Raises `UserError` where it does not answer, or cannot do what is asked for."""
    entries = _entries(client.probe("/models"))
    entry = _entry(config, entries)
    kind = _KINDS.get(str(entry.get("owned_by")), "")
    model = str(entry.get("id") or config.model)
    positions = config.max_positions or _positions(client, kind, entry)
    frame = _frame(client, kind, model, config.system) if config.chat is True else PLAIN
    plain: Any = Failure("is not asked")
    refused: tuple[str, ...] = ()
    if config.chat is not True or frame is not None:
        fields = {"prompt": _SHORT, "logprobs": 1}
        plain, refused = _ask(client, "/completions", _small_body(config, model, fields))
    completions = not isinstance(plain, Failure)
    if not completions and config.chat is False:
        raise UserError(f"plm.chat=false: {client.url}/completions: {plain.reason}; allowed are auto and true")
    answer = plain
    if not completions:
        frame = TURNS
        fields = prompt_fields(TURNS.wrap("Name a film.", ""), kind, TURNS, config.system)
        answer, refused = _ask(client, "/chat/completions", _small_body(config, model, fields))
        if isinstance(answer, Failure):
            raise UserError(f"plm.base_url={client.url}: {answer.reason}")
    assert frame is not None
    found = Abilities(
        kind,
        model,
        positions,
        frame,
        completions,
        completions or kind in _CONTINUE,
        bool(logprobs_of(answer)),
        _scores(client, kind, model) if completions else "",
        refused,
    )
    return replace(found, ignored=_ignored(client, config, found))


def _ask(client: Client, path: str, body: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Ask for a text, without the fields that the server names as it refuses them; return the answer, and these."""
    refused: tuple[str, ...] = ()
    while True:
        answer = client.probe(path, accepted(body, refused))
        if not isinstance(answer, Failure):
            if not (isinstance(answer, dict) and isinstance(answer.get("choices"), list)):
                raise UserError(
                    f"plm.base_url={client.url}: its answer to {path} has no choices, so it is not the OpenAI API"
                    + ("" if client.url.endswith("/v1") else "; is /v1 missing at its end?")
                )
            return answer, refused
        if answer.status not in (400, 422):
            return answer, refused
        named = [name for name in _MAY_BE_REFUSED if name in answer.reason and name not in refused]
        if not named:
            return answer, refused
        refused = (*refused, named[0])


def accepted(body: dict[str, Any], refused: Sequence[str]) -> dict[str, Any]:
    """Return a body without fields that a server refuses; some want max_tokens by another name."""
    body = {name: value for name, value in body.items() if name not in refused or name == "max_tokens"}
    if "max_tokens" in refused:
        body["max_completion_tokens"] = body.pop("max_tokens")
    return body


def _entries(listed: Any) -> list[dict[str, Any]]:
    data = listed.get("data") if isinstance(listed, dict) else None
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _entry(config: PlmConfig, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a server lists of the model. Raises `UserError` for one that it does not list; {} without a list."""
    for entry in entries:
        name = str(entry.get("id"))
        # llama.cpp calls a model by its file, Ollama by its tag.
        if config.model in (name, Path(name).name, Path(name).stem, name.removesuffix(":latest")):
            return entry
    if entries:
        names = [str(entry.get("id")) for entry in entries]
        raise unknown(f"plm.model, on {config.base_url}", config.model, names)
    return {}


def _positions(client: Client, kind: str, entry: dict[str, Any]) -> int:
    said: Any = entry.get("max_model_len")
    if kind == "llama.cpp":
        properties = client.probe("../props")
        settings = properties.get("default_generation_settings") if isinstance(properties, dict) else None
        said = settings.get("n_ctx") if isinstance(settings, dict) else None
    return said if isinstance(said, int) and said > 1 else _POSITIONS


def _frame(client: Client, kind: str, model: str, system: str | None) -> Frame | None:
    """Return the frame of a server's chat template, None where it keeps that to itself."""

    def render(turns: list[dict[str, str]]) -> str:
        shared = {"messages": turns, "add_generation_prompt": True, "chat_template_kwargs": CONSTANTS}
        if kind == "llama.cpp":
            answer = client.probe("../apply-template", shared)
        else:
            ids = client.probe("../tokenize", shared | {"model": model})
            if not isinstance(ids, dict) or "tokens" not in ids:
                raise ValueError(f"no tokens: {ids}")
            answer = client.probe("../detokenize", {"model": model, "tokens": ids["tokens"]})
        if not isinstance(answer, dict) or "prompt" not in answer:
            raise ValueError(f"no template: {answer}")
        return str(answer["prompt"])

    return chat_frame(render, system) if kind in ("llama.cpp", "vLLM") else None


def prompt_fields(prompt: str, kind: str, frame: Frame, system: str | None) -> dict[str, Any]:
    """Return the fields of a request that hold its prompt, and ask for the log-probabilities of what is written.

    prompt: as the frame has wrapped it.
    """
    if frame is not TURNS:
        # A chat's template holds the special tokens that a server would put before a prompt.
        special = {"add_special_tokens": False} if frame.chat and kind != "llama.cpp" else {}
        return {"prompt": prompt, "logprobs": 1} | special
    user, _, answer = prompt.rpartition(TURNS.suffix)
    turns = messages(user, system)
    more: dict[str, Any] = {"logprobs": True}
    if kind in ("vLLM", "SGLang", "llama.cpp"):
        more["chat_template_kwargs"] = CONSTANTS
    if answer and kind in _CONTINUE:
        turns.append({"role": "assistant", "content": answer})
        if kind in ("vLLM", "SGLang"):
            more |= {"continue_final_message": True, "add_generation_prompt": False}
    return {"messages": turns} | more


def _small_body(config: PlmConfig, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a small request for a text, with all fields that later ones have."""
    shared = {"model": model, "max_tokens": 1, "temperature": 1.0, "top_p": 0.9, "seed": 1}
    return shared | fields | config.extra


def logprobs_of(answer: Any) -> list[float]:
    """Return the log-probabilities of the tokens that were written, in either layout; empty where there are none."""
    try:
        said = answer["choices"][0]["logprobs"]
        if "content" in said:  # that of the chat route, which llama.cpp uses on both
            return [float(token["logprob"]) for token in said["content"]]
        return [float(value) for value in said["token_logprobs"] if value is not None]
    except (KeyError, IndexError, TypeError, ValueError):
        return []


def _scores(client: Client, kind: str, model: str) -> str:
    """Return how a server tells the log-probabilities of a given text."""
    if kind == "llama.cpp":
        ids = client.probe("../tokenize", {"content": _SHORT, "add_special": True, "parse_special": True})
        if isinstance(ids, dict) and len(ids.get("tokens", ())) > 1:
            forced = client.probe("../completion", grammar_body(ids["tokens"], 1, len(ids["tokens"])))
            written = forced.get("completion_probabilities", []) if isinstance(forced, dict) else []
            if [token.get("id") for token in written] == ids["tokens"][1:]:
                return "grammar"
        return ""
    answer = client.probe("/completions", echo_body(model, _SHORT))
    try:
        said = answer["choices"][0]["logprobs"]
        if said["token_logprobs"][0] is None and "".join(said["tokens"]).endswith(_SHORT):
            return "echo"
    except (KeyError, IndexError, TypeError):
        pass
    return ""


def echo_body(model: str, prompt: str, special: bool = True) -> dict[str, Any]:
    """Return the body that has a prompt returned with the log-probability of each of its tokens.

    special: whether the server puts its special tokens before a text; a chat's frame has them.
    """
    body = {"model": model, "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
    return body if special else body | {"add_special_tokens": False}


def grammar_body(ids: Sequence[int], first: int, stop: int) -> dict[str, Any]:
    """Return the body that has llama.cpp write tokens number `first` to `stop` of some and tell how probable they were.

    Only a grammar of token ids keeps to these tokens: literal text may be cut into others. The log-probabilities are
    those before anything is sampled, given that no sampler is on.
    """
    forced = " ".join(f"<[{token}]>" for token in ids[first:stop])
    return _exact_body(ids, first, stop) | {"grammar": f"root ::= {forced}"}


def alternatives_body(ids: Sequence[int], place: int, letter: int, number: int) -> dict[str, Any]:
    """Return the body that has llama.cpp tell the log-probabilities of the most probable tokens at a place.

    letter: a token of plain text, which is written, whatever is probable: after half a character nothing is told. The
    log-probabilities know nothing of that.
    """
    return _exact_body(ids, place, place + 1) | {"logit_bias": [[letter, 1000.0]], "n_probs": number}


def _exact_body(ids: Sequence[int], first: int, stop: int) -> dict[str, Any]:
    return {
        "prompt": list(ids[:first]),
        "n_predict": stop - first,
        "n_probs": 1,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }


def _ignored(client: Client, config: PlmConfig, found: Abilities) -> tuple[str, ...]:
    """Return which of the fields that shape a text a server ignores: the seed, and strings at which to stop."""
    path = "/completions" if found.completions else "/chat/completions"
    prompt = found.frame.wrap(f"Go on counting up to 20: {_COUNT}", "") if found.frame.chat else _COUNT
    fields = prompt_fields(prompt, found.kind, found.frame, config.system)
    body = accepted(_small_body(config, found.model, fields) | {"max_tokens": 8}, found.refused)
    stopped = client.probe(path, body | {"temperature": 0.0, "stop": [","]})
    sampled = [client.probe(path, body | {"seed": 7, "temperature": 1.5, "top_p": 1.0, "stop": ["\n"]}) for _ in "ab"]
    texts = [text_of(answer) for answer in sampled]
    ignored = ("seed",) if texts[0] != texts[1] or "seed" in found.refused else ()
    return (*ignored, "stop") if "," in text_of(stopped) else ignored


def text_of(answer: Any) -> str:
    """Return the text of an answer of either route; empty where there is none."""
    try:
        choice = answer["choices"][0]
        return str((choice["message"]["content"] if "message" in choice else choice["text"]) or "")
    except (KeyError, IndexError, TypeError):
        return ""
