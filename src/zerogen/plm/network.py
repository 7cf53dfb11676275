"""A causal model in two halves, so that logits are computed only where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from zerogen.plm.cache import ATTENTION, pad_right
from zerogen.plm.pack import PackedHead

_FULL, _SLIDING = "full_attention", "sliding_attention"  # transformers' kinds of layers
_SHORT = 4  # tokens in a sliding window that few tokens suffice to check
# What a model raises whose code does not fit our cache, attention or halves.
MISFITS = (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError, IndexError)


class _LayerWithGelu(nn.Module):
    """The first layer of GPT-2's MLP and the activation after it, on a GPU in one kernel that rounds once."""

    def __init__(self, layer: Conv1D) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if x.is_cuda:
            out: Tensor = torch._addmm_activation(self.bias, flat, self.weight, use_gelu=True)
        else:  # where that function takes the exact GELU, not GPT-2's
            out = nn.functional.gelu(torch.addmm(self.bias, flat, self.weight), approximate="tanh")
        return out.view(*x.shape[:-1], -1)


def _with_fused_activations(model: PreTrainedModel) -> PreTrainedModel:
    """Let torch compute GPT-2's GELU in one step, with the product before it where that is a plain one.

    transformers takes eight steps, each rounded.
    """
    for module in list(model.modules()):
        # A subclass may compute something else, as an adapter does.
        if type(module) is GPT2MLP and isinstance(module.act, NewGELUActivation) and type(module.c_fc) is Conv1D:
            module.c_fc, module.act = _LayerWithGelu(module.c_fc), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU("tanh"))
    return model


class Network:
    """`hidden` reads tokens, `logits` turns the states that it returns into next-token logits.

    Where a model does something of its own between or after the two (it scales or caps logits), which a comparison
    shows, `hidden` returns the logits of all tokens, `last` those of one token, and `logits` passes them on.

    slides: whether `masks` hides what is beyond the model's sliding windows. Set it to False where a comparison shows
        that they are not what the configuration says.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = _with_fused_activations(model.eval()) if model.device.type == "cuda" else model.eval()
        self.device = model.device
        self.config = model.config.get_text_config()
        self._own_attention: str = model.config._attn_implementation
        self._body, self._head = model.base_model, model.get_output_embeddings()
        # Models of transformers before 5.24, and remote code, take it as past_key_values.
        self._has_cache_argument = "cache" in signature(self.model.forward).parameters
        size, kinds = getattr(self.config, "sliding_window", None), getattr(self.config, "layer_types", None)
        self._kinds: list[str] = kinds or []  # of layers; all are the same where there are none
        self.slides = isinstance(size, int) and size > 0 and {_FULL, _SLIDING} >= set(self._kinds)
        self.halved = self._narrowed = False
        with torch.inference_mode():
            inputs = self._padded([[(5 * i + 1) % self.config.vocab_size for i in range(4)]] * 2)
            expected = self.logits(self.hidden(**inputs))
            self.halved = self._body is not self.model
            self.halved = self.halved and self._gives(expected, lambda: self.hidden(**inputs), 1e-3)
            self._narrowed = not self.halved and self._head is not None
            third = torch.tensor([2, 2], device=self.device)
            # A product of another shape may round half precision differently.
            self._narrowed = self._narrowed and self._gives(expected[:, 2], lambda: self.last(third, **inputs), 0.05)

    def _gives(self, expected: Tensor, run: Callable[[], Tensor], tolerance: float) -> bool:
        """Return whether a way to run the model gives the expected logits."""
        try:
            return torch.allclose(self.logits(run()).float(), expected.float(), rtol=tolerance, atol=tolerance)
        except torch.OutOfMemoryError:
            raise
        except MISFITS:
            return False

    @property
    def reuses_memory(self) -> bool:
        """Whether `logits` writes into memory that it is given."""
        return self.halved and isinstance(self._head, PackedHead)

    def hidden(self, **inputs: Any) -> Tensor:
        """Run the model on keyword arguments of its forward; return states [B, T, H] for `logits`."""
        if "cache" in inputs and not self._has_cache_argument:
            inputs["past_key_values"] = inputs.pop("cache")
        if self.halved:
            states: Tensor = self._body(**inputs).last_hidden_state
            return states
        logits: Tensor = self.model(**inputs).logits
        return logits

    def last(self, places: Tensor, **inputs: Any) -> Tensor:
        """Do what `hidden` does for one token per row, at `places` [b] of the first b rows; return states [b, H]."""
        rows = torch.arange(len(places), device=places.device)
        if not self._narrowed:
            return self.hidden(**inputs)[rows, places]
        # Logits of all tokens of all rows may be many gigabytes: the head sees no other token.
        hook = self._head.register_forward_pre_hook(lambda head, args: (args[0][rows, places][:, None], *args[1:]))
        try:
            return self.hidden(**inputs)[:, 0]
        finally:
            hook.remove()

    def read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return states [B, T, H] by the model's own attention."""
        return self.hidden(**self._padded(rows))

    def read_last(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return states [B, H] of the last tokens of rows by the model's own attention."""
        return self.last(torch.tensor([len(row) - 1 for row in rows], device=self.device), **self._padded(rows))

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return a model's usual inputs: right padding under a plain 2D mask, and no cache."""
        ids = pad_right(rows, self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (ids.shape[1] - len(row)) for row in rows], device=self.device)
        return {"input_ids": ids, "attention_mask": mask, "use_cache": False}

    def logits(self, states: Tensor, out: Tensor | None = None) -> Tensor:
        """Return logits [..., V] for states [..., H], in the memory of `out` where the head can."""
        if not self.halved:
            return states
        if self.reuses_memory:
            return self._head(states, out)
        logits: Tensor = self._head(states)
        return logits

    @contextmanager
    def slot_attention(self) -> Iterator[None]:
        """Make the model attend by `cache.slot_attention`, under `masks`, inside the block."""
        self.model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            self.model.set_attn_implementation(self._own_attention)

    def masks(self, mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the `attention_mask` for `hidden` in `slot_attention`: a mask, or one per kind of layer.

        mask: the additive one [B or 1, 1, Q, T] of full attention. queries, keys: the positions of the tokens that see,
        [B or 1, Q], and that are seen, [B or 1, T].
        """
        if not self.slides:
            return mask
        # The edge of transformers' `sliding_window_overlay`: a window holds the token itself.
        beyond = keys[:, None] <= queries[:, :, None] - self.config.sliding_window  # [B or 1, Q, T]
        near = mask.masked_fill(beyond[:, None], torch.finfo(mask.dtype).min)
        return {_FULL: mask, _SLIDING: near} if self._kinds else near

    @contextmanager
    def short_window(self) -> Iterator[None]:
        """Shorten the sliding windows, of the model's own attention as well, inside the block."""
        if not self.slides:
            yield
            return
        size, self.config.sliding_window = self.config.sliding_window, _SHORT
        try:
            yield
        finally:
            self.config.sliding_window = size

    @property
    def window(self) -> int:
        """The longest row that may be read piece by piece under `masks`.

        Attention that is local in another way is full within its window; rotary positions that depend on a row's length
        do so only beyond the length that the model had before it was extended.
        """
        names = ["window_size", "attention_chunk_size", *(["sliding_window"] if not self.slides else [])]
        sizes = [getattr(self.config, name, None) for name in names]
        rope = getattr(self.config, "rope_parameters", None) or {}
        for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):  # one per kind of layer
            if one.get("rope_type") in ("dynamic", "longrope"):
                sizes.append(one.get("original_max_position_embeddings"))
        return min([size for size in sizes if isinstance(size, int) and size > 0], default=1 << 30)
