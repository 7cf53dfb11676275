"""The pretrained language model: `generate` continues prompts, `logprob` scores texts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zerogen.config import DebiasConfig, DecodingConfig, PlmConfig
from zerogen.models import has_bfloat16, load_pretrained, resolve
from zerogen.plm.debias import SelfDebiasing
from zerogen.plm.decode import CachedEngine, RecomputingEngine, Row, Slots, decode
from zerogen.plm.network import MISFITS, Network
from zerogen.plm.pack import can_pack, pack_linears, return_freed_memory
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Codec, longest_row
from zerogen.plm.rng import fold_in
from zerogen.plm.sampling import Sampler
from zerogen.plm.score import logprobs
from zerogen.progress import Progress
from zerogen.records import Continuation, Request, Stop

_ROWS_ON_CPU = 192  # at a time: more are hardly faster and take more memory
_ROWS_ON_GPU = 256  # half a chunk: there, the rows that end first are refilled
_COLUMNS = 64  # a cache of static shapes has a multiple of these, so that it serves for many chunks
_END_OF_TEXT = ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>")


class Plm(Codec):
    """A causal language model of transformers with its tokenizer.

    Build it with `load_plm`, or from a model and a tokenizer already in memory. A model whose attention does not go
    through transformers' attention interface (checked here by comparing logits) is decoded without a cache: right,
    but slow; `cached` tells. Where a GPU's memory is too small for a batch, smaller ones are decoded from then on;
    `say` is called with a line about it.

    tokens: how many were sampled or scored so far.
    most_columns: of the cache, over all rows, that fit into memory as far as is known.
    static_shapes: decode in a way that can be recorded as a CUDA graph, with memory and a graph that serve for all
        chunks of the same shape; on a GPU.
    """

    parallel = 1

    def __init__(self, model: Any, tokenizer: Any, name: str = "plm") -> None:
        self.network = Network(model)
        super().__init__(tokenizer, longest_row(model.config), name)
        self.device = model.device
        self.tokens = 0
        self.say: Callable[[str], None] = lambda text: None
        self.most_columns = 1 << 62
        self.static_shapes = self.device.type == "cuda"
        self._kept: tuple[object, Slots] | None = None
        self._free = torch.cuda.mem_get_info(self.device)[0] if self.static_shapes else 0
        self._told = False  # that its steps cannot be recorded
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

    def write(
        self, works: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield what is written for each work, in their order."""
        for work in works:
            started, tokens = time.perf_counter(), self.tokens
            continuations = self.generate(
                work.requests, work.decoding, work.stops, work.max_new_tokens, work.seed, work.debias, on_row
            )
            yield ChunkOutput(continuations, self.tokens - tokens, round(time.perf_counter() - started, 3))

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

        Returns one continuation per request, in their order. A row's draws depend on `seed` and the row's place in
        `requests` alone. `debias` says what the requests' counter-prompts do. `on_row` is called with 1 as each row
        ends. Raises ValueError when a prompt leaves no room for `max_new_tokens`.
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
        lines = 1 + most
        keys = fold_in(torch.full((len(order),), seed % (1 << 63), device=self.device), self._ids(order))
        sampler = Sampler(
            decoding.top_p, decoding.top_k, decoding.temperature, SelfDebiasing(debias.decay, debias.epsilon)
        )
        cached = self.cached and capacity <= self.network.window
        static_shapes = self.static_shapes and cached and sampler.settles
        if static_shapes:
            capacity = min(-(-capacity // _COLUMNS) * _COLUMNS, self.max_positions)
        batch_size = self.rows_at_a_time(decoding, capacity)
        while True:
            count = min(max(1, min(batch_size, self.most_columns // capacity) // lines), len(prompts))
            done: list[Continuation] = [Continuation("", "", 0, 0.0)] * len(prompts)
            finished = 0
            try:
                with self.network.slot_attention() if cached else nullcontext():
                    slots = self._slots(count, lines, capacity, cached, static_shapes, sampler)
                    for row, finish_reason in decode(
                        slots, prompts, keys, max_new_tokens, lambda rows: self._ends(rows, stops)
                    ):
                        place = order[row.index]
                        done[place] = self._continuation(row, finish_reason, stops, requests[place])
                        finished += 1
                        on_row(1)
            except torch.OutOfMemoryError:
                self.release()
                if count == 1:
                    raise
            except BaseException:  # a NaN in the cache would be met again
                self.release()
                raise
            else:
                if slots.graphed and slots.graphed.refused and not self._told:
                    self._told = True
                    self.say(f"{self.name}: its steps cannot be recorded ({slots.graphed.refused}): it is slower")
                self.tokens += sum(continuation.tokens for continuation in done)
                return done
            on_row(-finished)
            fewer = max(lines, count * lines // 2)
            self.most_columns = fewer * capacity
            self.say(f"no memory for {count * lines} rows at a time: going on with {fewer}")
            torch.cuda.empty_cache()  # behind the except block, whose traceback holds the cache

    def release(self) -> None:
        """Give back the memory of a GPU that is kept from one call of `generate` for the next."""
        self._kept = None

    def rows_at_a_time(self, decoding: DecodingConfig, capacity: int) -> int:
        """Return how many rows of at most `capacity` tokens are decoded at a time, counter-prompts included."""
        if decoding.batch_size is not None:
            return decoding.batch_size
        config, cache = self.network.config, self.row_bytes(capacity)
        if self.device.type != "cuda":
            # Of all memory, not of what is free now: the same machine decodes as many rows in every run.
            return max(1, min(_ROWS_ON_CPU, usable_memory() // 8 // cache))
        logits = 6 * 4 * config.vocab_size  # and what the sampler makes of them, in float32
        rows = int(0.7 * self._free) // (cache + logits)
        # A power of two: what else needs a little memory on that GPU does not change it.
        return min(_ROWS_ON_GPU, 1 << max(0, rows.bit_length() - 1))

    def row_bytes(self, capacity: int) -> int:
        """Return the memory that the cache of a row of so many tokens takes."""
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * capacity * self.network.model.dtype.itemsize

    def _slots(
        self, count: int, lines: int, capacity: int, cached: bool, static_shapes: bool, sampler: Sampler
    ) -> Slots:
        if not static_shapes:
            engine = (CachedEngine if cached else RecomputingEngine)(self.network, count * lines, capacity)
            return Slots(engine, sampler, count, lines, self.device)
        shape = (count, lines, sampler)
        if self._kept is None or self._kept[0] != shape or self._kept[1].engine.capacity < capacity:
            self.release()  # before the next one is made
            kept = CachedEngine(self.network, count * lines, capacity, static_shapes=True)
            self._kept = shape, Slots(kept, sampler, count, lines, self.device)
        return self._kept[1]

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

    def _continuation(self, row: Row, finish_reason: str, stops: Sequence[Stop], request: Request) -> Continuation:
        text = self.decode(row.tokens)
        found = [(text.index(stop.text), stop) for stop in stops if stop.text in text]
        if found:
            place, stop = min(found, key=lambda item: item[0])
            text = text[: place + len(stop.text) * stop.keep]
        own, *others = [total / len(row.tokens) for total in row.logprobs]
        return Continuation(
            text, finish_reason, len(row.tokens), own, dict(zip(request.counters, others, strict=False))
        )

    def logprob(
        self,
        prompts: Sequence[str],
        batch_tokens: int = 1024,
        begins: Sequence[int] | None = None,
        total: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Score texts: yield (index, mean natural-log probability of its tokens but the first), in any order.

        batch_tokens: tokens read at a time, padding included; a longer text is read alone, in blocks of so many.
        begins: the character of each text from which on tokens count, given what stands before; all by default.
        total: yield sums, not means. progress: of the tokens read. Raises ValueError for a text of fewer than two
        tokens or of more than the model's positions, and FloatingPointError when a score is NaN.
        """
        progress = progress or Progress()
        with progress.wait("tokenizing"):
            encoded = [self.encode(prompt) for prompt in prompts]
            first = [1] * len(encoded) if begins is None else list(map(self._token_at, prompts, begins))
        for prompt, ids in zip(prompts, encoded, strict=True):
            if not 2 <= len(ids) <= self.max_positions:
                raise ValueError(f"{self.name}: cannot score {len(ids)} tokens: {prompt[:60]!r}")
        cached = self.cached and max(map(len, encoded), default=0) <= self.network.window
        with progress.bar("scoring texts", sum(map(len, encoded)) - len(encoded), "tokens") as advance:
            for batch, sums in logprobs(self.network, encoded, first, cached, batch_tokens, advance):
                for i, score in zip(batch, sums, strict=True):
                    if score != score:
                        raise FloatingPointError(f"{self.name}: a score is NaN")
                    self.tokens += len(encoded[i])
                    yield i, score if total else score / (len(encoded[i]) - first[i])

    def _token_at(self, text: str, place: int) -> int:
        """Return which token of a text is the first that reaches behind a character, but never its very first one."""
        spans = self.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return max(1, next((i for i, (_, end) in enumerate(spans) if end > place), len(spans) - 1))


def usable_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may take."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or no limit
            memory = min(memory, int(Path(limit).read_text()))
    return memory


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


def precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a name; `auto` is bfloat16 where the hardware computes in it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if has_bfloat16(device) else torch.float32
