"""The pretrained language model: `generate` continues prompts, `logprob` scores texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from zerogen.config import DecodingConfig, PlmConfig
from zerogen.models import fingerprint, has_bfloat16, load_pretrained, resolve
from zerogen.plm.decode import (
    ATTENTION,
    CachedEngine,
    RecomputingEngine,
    Row,
    decode,
    forward_plain,
    pad_right,
)
from zerogen.plm.pack import pack_linears
from zerogen.plm.sampling import Sampler
from zerogen.records import Continuation, Request, Stop

_END_OF_TEXT = ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>")


class Plm:
    """A causal language model of transformers with its tokenizer.

    Build it with `load_plm`, or from a model and a tokenizer already in memory. A model whose attention does not go
    through transformers' attention interface (checked here by comparing logits) is decoded without a cache: right,
    but slow; `cached` tells.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "plm") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.device = model.device
        self.tokens = 0  # tokens sampled or scored so far
        # A chat model's generation config may name its end of turn only.
        vocabulary = tokenizer.get_vocab()
        self.eos = {vocabulary[token] for token in _END_OF_TEXT if token in vocabulary}
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.eos |= set(configured if isinstance(configured, list) else [configured]) - {None}
        if tokenizer.eos_token_id is not None:
            self.eos.add(tokenizer.eos_token_id)
        config = model.config.get_text_config()
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 1 << 30
        # Within its window a sliding attention is a full one.
        self.window: int = min(getattr(config, "sliding_window", None) or 1 << 30, 1 << 30)
        self._own_attention: str = model.config._attn_implementation
        self.cached = self._cache_is_exact()

    @torch.inference_mode()
    def _cache_is_exact(self) -> bool:
        """Compare the slot cache with the model's own forward on two short rows of different length."""
        size = self.model.config.get_text_config().vocab_size
        rows = [[(7 * i + 3) % size for i in range(9)], [(5 * i + 1) % size for i in range(6)]]
        expected = forward_plain(self.model, rows)
        try:
            with self._slot_attention():
                engine = CachedEngine(self.model, slots=2, capacity=9)
                engine.prefill(self._ids([1, 0]), [rows[1][:5], rows[0][:7]])
                engine.step(self._ids([rows[0][7], rows[1][5]]), self._ids([7, 5]))
                found = engine.step(self._ids([rows[0][8], 0]), self._ids([8, 0]))[:1]
        except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError, IndexError):
            return False
        both = torch.stack([expected[0, 8], found[0]]).double().softmax(-1)
        # Half precision rounds differently in another order; a wrong mask or position is off by far more.
        return float((both[0] - both[1]).abs().sum()) / 2 < (1e-3 if self.model.dtype == torch.float32 else 0.1)

    @contextmanager
    def _slot_attention(self) -> Iterator[None]:
        """Let the model attend by `slot_attention`, which needs 4D masks, and give it back its own attention."""
        self.model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            self.model.set_attn_implementation(self._own_attention)

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, with the special tokens that the tokenizer puts before one."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def generate(
        self,
        requests: Sequence[Request],
        decoding: DecodingConfig,
        stops: Sequence[Stop],
        max_new_tokens: int,
        seed: int,
        on_row: Callable[[int], None] = lambda rows: None,
    ) -> list[Continuation]:
        """Continue the prompt of every request until one of `stops`, end-of-text or `max_new_tokens`.

        Returns one continuation per request, in their order. The draws depend on `seed` alone. `on_row` is called with
        1 as each row ends. Raises ValueError when a prompt leaves no room for `max_new_tokens`.
        """
        if not requests:
            return []
        encoded = [self.encode(request.prompt) for request in requests]
        # Equal prompts side by side are read once.
        order = sorted(range(len(encoded)), key=encoded.__getitem__)
        prompts = [encoded[i] for i in order]
        capacity = max(map(len, prompts)) + max_new_tokens
        if capacity > self.max_positions:
            raise ValueError(
                f"{self.name}: a prompt and its {max_new_tokens} tokens exceed {self.max_positions} positions"
            )
        slots = min(decoding.batch_size, len(prompts))
        cached = self.cached and capacity <= self.window
        rows = decode(
            (CachedEngine if cached else RecomputingEngine)(self.model, slots, capacity),
            prompts,
            Sampler(decoding.top_p, decoding.top_k, decoding.temperature),
            torch.Generator().manual_seed(seed),
            slots,
            max_new_tokens,
            lambda rows: self._ends(rows, stops),
            self.device,
        )
        done: list[Continuation | None] = [None] * len(prompts)
        with self._slot_attention() if cached else nullcontext():
            for row, finish in rows:
                self.tokens += len(row.tokens)
                done[order[row.index]] = self._continuation(row, finish, stops)
                on_row(1)
        return [continuation for continuation in done if continuation is not None]

    def _ends(self, rows: Sequence[Row], stops: Sequence[Stop]) -> list[str | None]:
        texts = self.tokenizer.batch_decode(
            [row.tokens for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [
            "stop" if any(stop.text in text for stop in stops) else "eos" if row.tokens[-1] in self.eos else None
            for row, text in zip(rows, texts, strict=True)
        ]

    def _continuation(self, row: Row, finish: str, stops: Sequence[Stop]) -> Continuation:
        text = self.decode(row.tokens)
        found = [(text.index(stop.text), stop) for stop in stops if stop.text in text]
        if found:
            place, stop = min(found, key=lambda item: item[0])
            text = text[: place + len(stop.text) * stop.keep]
        return Continuation(text, finish, len(row.tokens), row.logprob / len(row.tokens))

    @torch.inference_mode()
    def logprob(self, prompts: Sequence[str], batch_tokens: int = 1536) -> Iterator[tuple[int, float]]:
        """Score texts: yield (index, mean natural-log probability of its tokens but the first), longest first.

        batch_tokens: tokens scored at a time, padding included; a longer text is scored alone. Raises ValueError for a
        text of fewer than two tokens or of more than the model's positions, and FloatingPointError when a score is NaN.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if not 2 <= len(ids) <= self.max_positions:
                raise ValueError(f"{self.name}: cannot score {len(ids)} tokens: {prompt[:60]!r}")
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        while order:
            size = max(1, batch_tokens // len(encoded[order[0]]))
            batch, order = order[:size], order[size:]
            rows = [encoded[i] for i in batch]
            logits = forward_plain(self.model, rows)
            targets = pad_right(rows, self.device)
            logp = -torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), reduction="none"
            ).view(len(rows), -1)  # [B, T-1]
            lengths = self._ids([len(row) - 1 for row in rows])
            # Padding and end-of-text may share an id: only the lengths know.
            real = torch.arange(logp.shape[1], device=self.device) < lengths[:, None]
            means = (logp * real).sum(-1) / lengths
            if means.isnan().any():
                raise FloatingPointError(f"{self.name}: a score is NaN")
            self.tokens += sum(map(len, rows))
            yield from zip(batch, means.tolist(), strict=True)


def load_plm(config: PlmConfig, device: torch.device) -> Plm:
    """Load a PLM on a device. Raises `UserError` when its weights cannot be had."""
    from transformers import AutoModelForCausalLM

    source = resolve(config.model, config.revision, "plm.model")
    dtype = precision(config.dtype, device)
    model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "plm.model", dtype=dtype)
    model = model.to(device)
    if dtype == torch.bfloat16 and device.type == "cpu" and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pack_linears(model, model.get_output_embeddings())
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
