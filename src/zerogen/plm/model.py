"""The pretrained language model: `generate` continues prompts, `logprob` scores texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from zerogen.config import DebiasConfig, DecodingConfig, PlmConfig
from zerogen.models import fingerprint, has_bfloat16, load_pretrained, resolve
from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.decode import CachedEngine, RecomputingEngine, Row, decode
from zerogen.plm.network import MISFITS, Network
from zerogen.plm.pack import can_pack, pack_linears, return_freed_memory
from zerogen.plm.sampling import Sampler
from zerogen.plm.score import logprobs
from zerogen.plm.work import Codec, Work, Written, longest_row
from zerogen.records import Continuation, Request, Stop

_END_OF_TEXT = ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>")


class Plm(Codec):
    """A causal language model of transformers with its tokenizer.

    Build it with `load_plm`, or from a model and a tokenizer already in memory. A model whose attention does not go
    through transformers' attention interface (checked here by comparing logits) is decoded without a cache: right,
    but slow; `cached` tells. Where a GPU's memory is too small for a batch, smaller ones are decoded from then on;
    `say` is called with a line about it.
    """

    at_once = 1

    def __init__(self, model: Any, tokenizer: Any, name: str = "plm") -> None:
        self.network = Network(model)
        super().__init__(tokenizer, longest_row(model.config), name)
        self.device = model.device
        self.tokens = 0  # tokens sampled or scored so far
        self.say: Callable[[str], None] = lambda text: None
        self.most_rows = 1 << 30  # that fit into memory
        self._texts: dict[int, str] = {}  # of single tokens
        # A chat model's generation config may name its end of turn only.
        vocabulary = tokenizer.get_vocab()
        self.eos = {vocabulary[token] for token in _END_OF_TEXT if token in vocabulary}
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.eos |= set(configured if isinstance(configured, list) else [configured]) - {None}
        if tokenizer.eos_token_id is not None:
            self.eos.add(tokenizer.eos_token_id)
        self.cached = self._cache_is_exact()

    @torch.inference_mode()
    def _cache_is_exact(self) -> bool:
        """Compare the slot cache with the model's own forward on two short rows of different length."""
        network = self.network
        size = network.config.vocab_size
        rows = [[(7 * i + 3) % size for i in range(9)], [(5 * i + 1) % size for i in range(6)]]
        expected = network.logits(network.read(rows)[0, 8:9])
        try:
            with network.slot_attention():
                engine = CachedEngine(network, lines=2, capacity=9)
                engine.prefill(self._ids([1, 0]), [rows[1][:5], rows[0][:7]])
                engine.step(self._ids([rows[0][7], rows[1][5]]), self._ids([7, 5]))
                found = engine.step(self._ids([rows[0][8], 0]), self._ids([8, 0]))[:1].clone()
                engine.keep(self._ids([1]))
        except torch.OutOfMemoryError:
            raise
        except MISFITS:
            return False
        both = torch.cat([expected, found]).double().softmax(-1)
        # Half precision rounds differently in another order; a wrong mask or position is off by far more.
        return float((both[0] - both[1]).abs().sum()) / 2 < (1e-3 if network.model.dtype == torch.float32 else 0.1)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Let `say` be called with a line where something is slower than it could be, now and later."""
        self.say = say
        if not self.cached:
            say(f"{self.name}: its attention is not one that can be cached here; it is decoded slowly")

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def write(self, works: Sequence[Work], on_row: Callable[[int], None] = lambda rows: None) -> Iterator[Written]:
        """Yield what is written for each work, in their order."""
        for work in works:
            started, tokens = time.perf_counter(), self.tokens
            continuations = self.generate(
                work.requests, work.decoding, work.stops, work.max_new_tokens, work.seed, work.debias, on_row
            )
            yield Written(continuations, self.tokens - tokens, round(time.perf_counter() - started, 3))

    def generate(
        self,
        requests: Sequence[Request],
        decoding: DecodingConfig,
        stops: Sequence[Stop],
        max_new_tokens: int,
        seed: int,
        debias: DebiasConfig | None = None,
        on_row: Callable[[int], None] = lambda rows: None,
    ) -> list[Continuation]:
        """Continue the prompt of every request until one of `stops`, end-of-text or `max_new_tokens`.

        Returns one continuation per request, in their order. The draws depend on `seed` alone. `debias` says what the
        requests' counter-prompts do. `on_row` is called with 1 as each row ends. Raises ValueError when a prompt
        leaves no room for `max_new_tokens`.
        """
        if not requests:
            return []
        debias = debias or DebiasConfig()
        most = max(len(request.counters) for request in requests)
        encoded = []
        for request in requests:
            own, *counters = [self.encode(prompt) for prompt in (request.prompt, *request.counters.values())]
            # The prompt as its own counter-prompt changes nothing: it fills up where a request has fewer than others.
            encoded.append([own, *counters, *[own] * (most - len(counters))])
        # Equal prompts side by side are read once, and the cache grows as late as possible.
        order = sorted(range(len(encoded)), key=lambda i: (max(map(len, encoded[i])), encoded[i]))
        prompts = [encoded[i] for i in order]
        capacity = max(len(prompt) for group in prompts for prompt in group) + max_new_tokens
        if capacity > self.max_positions:
            raise ValueError(
                f"{self.name}: a prompt and its {max_new_tokens} tokens exceed {self.max_positions} positions"
            )
        rows = 1 + most
        while True:
            slots = min(max(1, min(decoding.batch_size, self.most_rows) // rows), len(prompts))
            done: list[Continuation] = [Continuation("", "", 0, 0.0)] * len(prompts)
            finished = 0
            try:
                for row, finish in self._decode(
                    prompts, slots, capacity, decoding, stops, max_new_tokens, seed, debias
                ):
                    place = order[row.index]
                    done[place] = self._continuation(row, finish, stops, requests[place])
                    finished += 1
                    on_row(1)
            except torch.OutOfMemoryError:
                if slots == 1:
                    raise
            else:
                self.tokens += sum(continuation.tokens for continuation in done)
                return done
            on_row(-finished)
            self.most_rows = max(rows, slots * rows // 2)
            self.say(f"no memory for {slots * rows} rows at a time: going on with {self.most_rows}")
            torch.cuda.empty_cache()  # behind the except block, whose traceback holds the cache

    def _decode(
        self,
        prompts: Sequence[Sequence[Sequence[int]]],
        slots: int,
        capacity: int,
        decoding: DecodingConfig,
        stops: Sequence[Stop],
        max_new_tokens: int,
        seed: int,
        debias: DebiasConfig,
    ) -> Iterator[tuple[Row, str]]:
        cached = self.cached and capacity <= self.network.window
        engine = (CachedEngine if cached else RecomputingEngine)(self.network, slots * len(prompts[0]), capacity)
        bias = SelfDebiasing(debias.decay, debias.epsilon)
        with self.network.slot_attention() if cached else nullcontext():
            yield from decode(
                engine,
                prompts,
                Sampler(decoding.top_p, decoding.top_k, decoding.temperature, bias),
                torch.Generator().manual_seed(seed),
                slots,
                max_new_tokens,
                lambda rows: self._ends(rows, stops),
                self.device,
            )

    def _ends(self, rows: Sequence[Row], stops: Sequence[Stop]) -> list[str | None]:
        """Say "stop" or "eos" for each row that its last token completes, else None."""
        finishes: list[str | None] = []
        for row in rows:
            last = row.tokens[-1]
            # Only then can the last token have completed a stop string; decoding every row at every step takes long.
            stopped = self._may_stop(last, stops) and any(stop.text in self.decode(row.tokens) for stop in stops)
            finishes.append("stop" if stopped else "eos" if last in self.eos else None)
        return finishes

    def _may_stop(self, token: int, stops: Sequence[Stop]) -> bool:
        """Tell whether a token can hold the end of a stop string.

        Of a token that ends inside a character the text is not known, and white space may be decoded differently in
        front of a word: such ends may be in any token.
        """
        if token not in self._texts:
            self._texts[token] = self.decode([token])
        text = self._texts[token]
        ends = [stop.text[-1] for stop in stops]
        return any(not end.isascii() or end.isspace() or end in text for end in ends)

    def _continuation(self, row: Row, finish: str, stops: Sequence[Stop], request: Request) -> Continuation:
        text = self.decode(row.tokens)
        found = [(text.index(stop.text), stop) for stop in stops if stop.text in text]
        if found:
            place, stop = min(found, key=lambda item: item[0])
            text = text[: place + len(stop.text) * stop.keep]
        own, *others = [total / len(row.tokens) for total in row.logprobs]
        return Continuation(text, finish, len(row.tokens), own, dict(zip(request.counters, others, strict=False)))

    def logprob(self, prompts: Sequence[str], batch_tokens: int = 768) -> Iterator[tuple[int, float]]:
        """Score texts: yield (index, mean natural-log probability of its tokens but the first), in any order.

        batch_tokens: tokens scored at a time, padding included; a longer text is scored alone. Raises ValueError for a
        text of fewer than two tokens or of more than the model's positions, and FloatingPointError when a score is NaN.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if not 2 <= len(ids) <= self.max_positions:
                raise ValueError(f"{self.name}: cannot score {len(ids)} tokens: {prompt[:60]!r}")
        cached = self.cached and max(map(len, encoded), default=0) <= self.network.window
        for batch, sums in logprobs(self.network, encoded, cached, batch_tokens):
            for i, total in zip(batch, sums, strict=True):
                if total != total:
                    raise FloatingPointError(f"{self.name}: a score is NaN")
                self.tokens += len(encoded[i])
                yield i, total / (len(encoded[i]) - 1)


def load_plm(config: PlmConfig, device: torch.device) -> Plm:
    """Load a PLM on a device. Raises `UserError` when its weights cannot be had."""
    from transformers import AutoModelForCausalLM

    source = resolve(config.model, config.revision, "plm.model")
    dtype = precision(config.dtype, device)
    model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "plm.model", dtype=dtype)
    model = model.to(device)
    if can_pack(dtype, device):
        pack_linears(model)
        return_freed_memory()
    return Plm(model, tokenizer, config.name)


def identity(config: PlmConfig) -> str:
    """Identify the weights of a PLM, for hashes: what changes them changes this."""
    return fingerprint(resolve(config.model, config.revision, "plm.model"))


def precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a name; `auto` is bfloat16 where the hardware computes in it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if has_bfloat16(device) else torch.float32
