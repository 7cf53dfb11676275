"""`Plm`, a causal model of transformers: continue prompts up to a stop string such as a quote; score texts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerogen.config.schema import DecodingConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig
from zerogen.data.records import Continuation, Request, Stop
from zerogen.plm.chat import PLAIN, Frame
from zerogen.plm.decode import CachedEngine, RecomputingEngine, Row, Slots, decode
from zerogen.plm.network import MISFITS, Network
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, Codec, longest_row
from zerogen.plm.rng import fold_in
from zerogen.plm.sampling import Sampler, effect_of
from zerogen.plm.score import logprobs
from zerogen.support.progress import Progress

_ROWS_ON_CPU = 192  # at a time: 256 are hardly faster for most texts, and take 90 MB more
_ROWS_ON_GPU = 2048  # of 256, 1,024 and 2,048 the fastest on an H200
_COLUMNS = 64  # a cache of static shapes has a multiple of these, so that it serves for many chunks
_END_OF_TEXT = ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows to decode in the same way: [row][line][token] ids of prompts and counter-prompts, and the rows' keys.

    capacity: the longest line in tokens. cached, static_shapes: how they are decoded, see `Plm`.
    """

    prompts: Sequence[Sequence[Sequence[int]]]
    keys: Tensor
    sampler: Sampler
    stops: Sequence[Stop]
    max_new_tokens: int
    capacity: int
    cached: bool
    static_shapes: bool


class Plm(Codec):
    """A causal language model of transformers with its tokenizer.

    Build it with `pretrained.open_pretrained`, or from a model and a tokenizer already in memory. A model whose
    attention does not go through transformers' attention interface (checked here by comparing logits) is decoded
    without a cache: correct, but slow; `cached` says which. Where a GPU's memory is too small for a batch, smaller ones
    are decoded from then on, and `say` is called with a line about it.

    tokens: how many were sampled or scored so far.
    most_columns: upper bound, learned from failures, on the cache columns over all rows that fit into memory.
    static_shapes: decode in a way that can be recorded as a CUDA graph, with memory and a graph that serve all
        chunks of the same shape; on a GPU.
    """

    parallel = 1

    def __init__(self, model: Any, tokenizer: Any, name: str = "plm", frame: Frame = PLAIN) -> None:
        self.network = Network(model)
        super().__init__(tokenizer, longest_row(model.config), name, frame)
        self.device = model.device
        self.tokens = 0
        self.say: Callable[[str], None] = lambda text: None
        self.most_columns = 1 << 62
        self.static_shapes = self.device.type == "cuda"
        self._slots_cache: tuple[object, Slots] | None = None
        self._free = torch.cuda.mem_get_info(self.device)[0] if self.static_shapes else 0
        self._warned = False  # that its steps cannot be recorded
        self._texts: dict[int, str] = {}  # of single tokens
        # A chat model's generation config may name its end of turn only.
        vocabulary = tokenizer.get_vocab()
        self.eos = {vocabulary[token] for token in _END_OF_TEXT if token in vocabulary}
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.eos |= set(configured if isinstance(configured, list) else [configured]) - {None}
        if tokenizer.eos_token_id is not None:
            self.eos.add(tokenizer.eos_token_id)
        self.cached = self._cache_is_exact()
        if not self.cached and self.network.slides:
            self.network.slides = False  # rows within the windows need no mask for them
            self.cached = self._cache_is_exact()
        self.longest_fork = min(self.network.window, self.positions) if self._forks_are_exact() else 0

    @torch.inference_mode()
    def _forks_are_exact(self) -> bool:
        """Compare scores of rows that are read in pairs, after a beginning that all have, with those read one by one.

        Both begin from the same cache, so that in bfloat16 little but a wrong place can tell them apart.
        """
        if not self.cached:
            return False
        size = self.network.config.vocab_size
        texts = [[(7 * i + 3) % size for i in range(4)] + [(5 * i + k) % size for i in range(9)] for k in range(4)]
        rows = [text + ending for text in texts for ending in ([1, 2 % size], [2 % size, 1, 0])]
        found: list[dict[int, float]] = []
        for longest in (0, 64):
            batches = logprobs(self.network, rows, [1] * len(rows), True, 64, longest_fork=longest)
            with self.network.short_window():
                found.append({i: total for batch, sums in batches for i, total in zip(batch, sums, strict=True)})
        close = 1e-3 if self.network.model.dtype == torch.float32 else 0.5
        return max(abs(found[0][i] - found[1][i]) for i in range(len(rows))) < close

    @torch.inference_mode()
    def _cache_is_exact(self) -> bool:
        """Compare the slot cache with the model's own forward on two short rows of different length.

        Sliding windows are shortened meanwhile, so that the rows are longer.
        """
        network = self.network
        size = network.config.vocab_size
        rows = [[(7 * i + 3) % size for i in range(9)], [(5 * i + 1) % size for i in range(6)]]
        try:
            with network.short_window():
                expected = network.logits(network.read(rows)[0, 8:9])
            with network.short_window(), network.slot_attention():
                engine = CachedEngine(network, lines=2, capacity=9)
                engine.prefill(self._ids([1, 0]), [rows[1][:5], rows[0][:7]])
                engine.step(self._ids([rows[0][7], rows[1][5]]), self._ids([7, 5]))
                actual = engine.step(self._ids([rows[0][8], 0]), self._ids([8, 0]))[:1].clone()
                engine.keep(self._ids([1]))
        except torch.OutOfMemoryError:
            raise
        except MISFITS:
            return False
        both = torch.cat([expected, actual]).double().softmax(-1)
        # Half precision rounds differently in another order; a wrong mask or position is off by far more.
        return float((both[0] - both[1]).abs().sum()) / 2 < (1e-3 if network.model.dtype == torch.float32 else 0.1)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Call `say` with a line about whatever is slower than it could be, now and later."""
        self.say = say
        if not self.cached:
            say(f"{self.name}: its attention is not one that can be cached here; it is decoded slowly")

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        dtype: torch.dtype = self.network.model.dtype
        return dtype

    def write(
        self, chunks: Sequence[ChunkRequest], on_row: Callable[[int], None] = lambda rows: None
    ) -> Iterator[ChunkOutput]:
        """Yield the output for each chunk, in their order; `on_row` is called as rows end, as by `generate`."""
        for chunk in chunks:
            started, tokens = time.perf_counter(), self.tokens
            continuations = self.generate(
                chunk.requests, chunk.decoding, chunk.stops, chunk.max_new_tokens, chunk.seed, chunk.debias, on_row
            )
            yield ChunkOutput(continuations, self.tokens - tokens, round(time.perf_counter() - started, 3))

    def generate(
        self,
        requests: Sequence[Request],
        decoding: DecodingConfig,
        stops: Sequence[Stop],
        max_new_tokens: int,
        seed: int,
        debias: DebiasConfig | ContrastConfig | None = None,
        on_row: Callable[[int], None] = lambda rows: None,
    ) -> list[Continuation]:
        """Continue the prompt of every request until one of `stops`, end-of-text or `max_new_tokens`.

        Returns one continuation per request, in their order. A row's draws depend only on `seed` and the row's place
        in `requests`. `debias` says what the requests' counter-prompts do. `on_row` is called with 1 as each row ends,
        and with a negative number when rows have to be written again. Raises ValueError when a prompt leaves no room
        for `max_new_tokens`, and when it is to be contrasted with fewer counter-prompts than another.
        """
        if not requests:
            return []
        if isinstance(debias, ContrastConfig) and len({len(request.counters) for request in requests}) > 1:
            raise ValueError(f"{self.name}: contrast: every request needs the same number of counter-prompts")
        encoded = self._encode_all(requests)
        # Equal prompts side by side are read once, and the cache grows as late as possible.
        order = sorted(range(len(encoded)), key=lambda i: (max(map(len, encoded[i])), encoded[i]))
        prompts = [encoded[i] for i in order]
        capacity = max(len(prompt) for group in prompts for prompt in group) + max_new_tokens
        if capacity > self.positions:
            raise ValueError(f"{self.name}: a prompt and its {max_new_tokens} tokens exceed {self.positions} positions")
        keys = fold_in(torch.full((len(order),), seed % (1 << 63), device=self.device), self._ids(order))
        effect = effect_of(debias or DebiasConfig())
        sampler = Sampler(decoding.top_p, decoding.top_k, decoding.temperature, effect)
        cached = self.cached and capacity <= self.network.window
        static_shapes = self.static_shapes and cached and sampler.settles
        if static_shapes:
            capacity = min(-(-capacity // _COLUMNS) * _COLUMNS, self.positions)
        batch = _Batch(prompts, keys, sampler, stops, max_new_tokens, capacity, cached, static_shapes)
        batch_size, lines = self.rows_at_a_time(decoding, capacity), len(prompts[0])
        done: dict[int, Continuation] = {}

        def finish(row: Row, finish_reason: str) -> None:
            place = order[row.index]
            done[place] = self._continuation(row, finish_reason, stops, requests[place])
            on_row(1)

        while True:
            count = min(max(1, min(batch_size, self.most_columns // capacity) // lines), len(prompts))
            if self._decode(batch, count, finish):
                self.tokens += sum(continuation.tokens for continuation in done.values())
                return [done[place] for place in range(len(requests))]
            on_row(-len(done))
            done.clear()
            fewer = max(lines, count * lines // 2)
            self.most_columns = fewer * capacity
            self.say(f"no memory for {count * lines} rows at a time: going on with {fewer}")
            torch.cuda.empty_cache()  # after `_decode`, whose traceback holds the cache

    def _encode_all(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Return the token ids of each request's prompt and counter-prompts, the same number for every request."""
        most = max(len(request.counters) for request in requests)
        groups = [(request.prompt, *request.counters.values()) for request in requests]
        ids = iter(self.all_prompt_ids([prompt for group in groups for prompt in group]))
        encoded = []
        for group in groups:
            own, *counters = islice(ids, len(group))
            # A prompt as its own counter-prompt does not debias: it pads requests that have fewer than others.
            encoded.append([own, *counters, *[own] * (most - len(counters))])
        return encoded

    def _decode(self, batch: _Batch, count: int, finish: Callable[[Row, str], None]) -> bool:
        """Decode a batch, `count` rows at a time, and call `finish` as rows end; return whether memory sufficed."""
        try:
            with self.network.slot_attention() if batch.cached else nullcontext():
                slots = self._slots(batch, count)
                may_end, ends = self._may_end(batch.stops), partial(self._ends, batch.stops)
                for row, finish_reason in decode(slots, batch.prompts, batch.keys, batch.max_new_tokens, may_end, ends):
                    finish(row, finish_reason)
        except torch.OutOfMemoryError:
            self.release()
            if count == 1:
                raise
            return False
        except BaseException:  # a NaN in the cache would be met again
            self.release()
            raise
        if slots.graphed and slots.graphed.refused and not self._warned:
            self._warned = True
            self.say(f"{self.name}: its steps cannot be recorded ({slots.graphed.refused}): it is slower")
        return True

    def release(self) -> None:
        """Free the GPU memory that is held from one call of `generate` to the next."""
        self._slots_cache = None

    def rows_at_a_time(self, decoding: DecodingConfig, capacity: int) -> int:
        """Return how many rows of at most `capacity` tokens are decoded at a time, counter-prompts included."""
        if decoding.batch_size is not None:
            return decoding.batch_size
        config, cache = self.network.config, self.row_bytes(capacity)
        if self.device.type != "cuda":
            # A share of all memory, not of what is free now: a machine decodes the same number of rows in every run.
            return max(1, min(_ROWS_ON_CPU, usable_memory() // 8 // cache))
        logits = 6 * 4 * config.vocab_size  # and what the sampler makes of them, in float32
        rows = int(0.7 * self._free) // (cache + logits)
        # A power of two, which a little memory used by others on that GPU does not change.
        return min(_ROWS_ON_GPU, 1 << max(0, rows.bit_length() - 1))

    def row_bytes(self, capacity: int) -> int:
        """Return the bytes that the cache of a row of `capacity` tokens takes."""
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * capacity * self.network.model.dtype.itemsize

    def _slots(self, batch: _Batch, count: int) -> Slots:
        """Return slots for `count` rows of a batch; those of static shapes serve for the next ones as well."""
        lines, capacity = len(batch.prompts[0]), batch.capacity
        if not batch.static_shapes:
            engine = (CachedEngine if batch.cached else RecomputingEngine)(self.network, count * lines, capacity)
            return Slots(engine, batch.sampler, count, lines, self.device)
        shape = (count, lines, batch.sampler)
        cache = self._slots_cache
        if cache is None or cache[0] != shape or cache[1].engine.capacity < capacity:
            cache = None
            self.release()  # before the next one is made
            engine = CachedEngine(self.network, count * lines, capacity, static_shapes=True)
            self._slots_cache = cache = shape, Slots(engine, batch.sampler, count, lines, self.device)
        return cache[1]

    def _may_end(self, stops: Sequence[Stop]) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]]:
        """Return what tells which tokens may end a row: decoding every row at every step would take long."""
        known = np.zeros(0, np.int8)

        def may_end(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
            nonlocal known
            if (most := tokens.max(initial=-1)) >= len(known):
                known = np.pad(known, (0, int(most) + 1), constant_values=-1)
            for token in np.unique(tokens[known[tokens] < 0]).tolist():
                known[token] = token in self.eos or self._may_stop(token, stops)
            return known[tokens] > 0

        return may_end

    def _ends(self, stops: Sequence[Stop], row: Row) -> str | None:
        """Return "stop" or "eos" for a row that its last token completes, else None."""
        last = row.tokens[-1]
        stopped = self._may_stop(last, stops) and any(stop.text in self.decode(row.tokens) for stop in stops)
        return "stop" if stopped else "eos" if last in self.eos else None

    def _may_stop(self, token: int, stops: Sequence[Stop]) -> bool:
        """Return whether a token can hold the end of a stop string.

        A token that ends inside a character has no text of its own, and white space may be decoded differently before
        a word: such ends may be in any token.
        """
        if token not in self._texts:
            self._texts[token] = self.decode([token])
        text = self._texts[token]
        ends = [stop.text[-1] for stop in stops]
        return any(not end.isascii() or end.isspace() or end in text for end in ends)

    def _continuation(self, row: Row, finish_reason: str, stops: Sequence[Stop], request: Request) -> Continuation:
        text = self.decode(row.tokens)
        matches = [(text.index(stop.text), stop) for stop in stops if stop.text in text]
        if matches:
            place, stop = min(matches, key=lambda item: item[0])
            text = text[: place + len(stop.text) * stop.keep]
        if finish_reason == "eos" and self.frame.chat:  # an answer that nothing else closes
            finish_reason = "stop"
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

        batch_tokens: tokens read at a time, padding included; a longer text is read alone, in blocks of that size.
        begins: the character of each text from which on tokens count, given what stands before; all by default.
        total: yield sums, not means. progress: counts the tokens read. Raises ValueError for a text of fewer than two
        tokens or of more than the model's positions, and FloatingPointError when a score is NaN.
        """
        progress = progress or Progress()
        with progress.wait("tokenizing"):
            encoded = self.all_prompt_ids(prompts)
            first = [1] * len(encoded) if begins is None else list(map(self._token_at, prompts, begins))
        for prompt, ids in zip(prompts, encoded, strict=True):
            if not 2 <= len(ids) <= self.positions:
                raise ValueError(f"{self.name}: cannot score {len(ids)} tokens: {prompt[:60]!r}")
        cached = self.cached and max(map(len, encoded), default=0) <= self.network.window
        with progress.bar("scoring texts", sum(map(len, encoded)) - len(encoded), "tokens") as advance:
            for batch, sums in logprobs(self.network, encoded, first, cached, batch_tokens, advance, self.longest_fork):
                for i, score in zip(batch, sums, strict=True):
                    if score != score:
                        raise FloatingPointError(f"{self.name}: a score is NaN")
                    self.tokens += len(encoded[i])
                    yield i, score if total else score / (len(encoded[i]) - first[i])

    def _token_at(self, text: str, place: int) -> int:
        """Return the index of the first token that reaches beyond a character, but never 0."""
        spans = self._read(text, return_offsets_mapping=True)["offset_mapping"]
        return max(1, next((i for i, (_, end) in enumerate(spans) if end > place), len(spans) - 1))


def usable_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or no limit
            memory = min(memory, int(Path(limit).read_text()))
    return memory
