"""Linear layers with weights prepacked for oneDNN, which are faster for few rows at a time on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from zerogen.support.weights import has_bfloat16

_ROWS = 64  # a typical batch; the layout is good for others, too
_HEAD_SLICE = 4096  # tokens of the vocabulary whose logits are computed at a time
_KERNELS = 64  # that oneDNN keeps; a step needs about ten


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether weights of this type can be packed on this device."""
    fits = dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16(device))
    return device.type == "cpu" and fits and torch.backends.mkldnn.is_available()


def _reorder(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


class _Packed(threading.local):
    """The product of several layers that read the same input, computed when the first of them needs it.

    Every thread has its own products.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> None:
        self.packed, self.bias, self.sizes = packed, bias, list(sizes)
        self.input: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}

    def part(self, index: int, x: Tensor) -> Tensor:
        """Return the output of layer `index` for its input [..., in]."""
        if len(self.sizes) == 1:
            return _product(x, self.packed, self.bias)
        if self.input is not x or index not in self.outputs:
            self.input = x
            self.outputs = dict(enumerate(_product(x, self.packed, self.bias).split(self.sizes, dim=-1)))
        out = self.outputs.pop(index)
        if not self.outputs:
            self.input = None
        return out


def _pack(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> _Packed:
    """Pack weights [out, in] of one width `in` side by side; a missing bias is zero."""
    bias = None
    if any(one is not None for one in biases):
        pairs = zip(biases, weights, strict=True)
        bias = torch.cat([w.new_zeros(len(w)) if one is None else one.detach() for one, w in pairs])
    packed = _reorder(torch.cat(list(weights)) if len(weights) > 1 else weights[0])
    return _Packed(packed, bias, [len(weight) for weight in weights])


class PackedLinear(nn.Module):
    """Same product as a linear layer, [..., in] to [..., out]; layers that read the same tensor share one product.

    `weight` has the layer's dtype and shape but holds nothing: the values are in the packed copy only.
    """

    def __init__(self, shared: _Packed, index: int, weight: Tensor) -> None:
        super().__init__()
        self.shared, self.index = shared, index
        self.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared.part(self.index, x)


class PackedHead(nn.Module):
    """An output layer, [..., in] to float32 logits [..., V].

    A logit of 20 rounded to bfloat16 is off by up to 0.06, and logits that differ would tie. In bfloat16 a second
    product computes what the first one rounded away, which leaves a relative error of 2^-16: on processors with
    bfloat16 units that is faster than float32, and takes half the memory.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty_like(linear.weight, device="meta"), requires_grad=False)
        self.packed = [_reorder(part) for part in linear.weight.split(_HEAD_SLICE)]
        bias = None if linear.bias is None else linear.bias.detach()
        self.biases = [None] * len(self.packed) if bias is None else list(bias.split(_HEAD_SLICE))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the logits, in `out` if given: pages of fresh memory cost as much as the product itself."""
        if out is None:
            out = torch.empty(*x.shape[:-1], len(self.weight), device=x.device)
        for packed, bias, part in zip(self.packed, self.biases, out.split(_HEAD_SLICE, dim=-1), strict=True):
            part.copy_(rounded := _product(x, packed, bias))
            if rounded.dtype != torch.float32:
                part += torch.ops.mkldnn._linear_pointwise.binary(x, rounded, packed, bias, "sub")
        return out


def pack_linears(model: PreTrainedModel) -> None:
    """Replace the linear layers of a CPU model in place, and limit the kernels that oneDNN keeps in this process.

    The plain weights are dropped. Queries, keys and values become one product, and so do a gate and its up
    projection: all layers that read the same tensor, as a trial run shows.
    """
    # oneDNN compiles a kernel for every shape, in 2 ms, and by default keeps the last 1,024: hundreds of megabytes once
    # prompts of all lengths have been read. It looks at this when it makes the first one.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
    head = model.get_output_embeddings()
    where = {child: (module, name) for module in model.modules() for name, child in module.named_children()}
    for group in _readers_of_one_tensor(model):
        if group == [head]:
            module, name = where[head]
            setattr(module, name, PackedHead(head))
            continue
        weights = [layer.weight.t() if isinstance(layer, Conv1D) else layer.weight for layer in group]
        shared = _pack(weights, [layer.bias for layer in group])
        for index, layer in enumerate(group):
            module, name = where[layer]
            setattr(module, name, PackedLinear(shared, index, layer.weight))


def return_freed_memory() -> None:
    """Return freed memory to the system: glibc holds on to that of the plain weights, in pieces too small to use."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@torch.inference_mode()
def _readers_of_one_tensor(model: PreTrainedModel) -> list[list[Any]]:
    """Group the linear layers that a forward of the model calls once by their input."""
    calls: list[tuple[Tensor, nn.Module]] = []  # holding the inputs keeps their ids apart

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append((inputs[0], layer))

    # Subclasses of nn.Linear may compute something else.
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear or type(layer) is Conv1D]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    called = [layer for _, layer in calls]
    groups: dict[int, list[Any]] = defaultdict(list)
    for tensor, layer in calls:
        if called.count(layer) == 1:
            groups[id(tensor)].append(layer)
    return list(groups.values())
