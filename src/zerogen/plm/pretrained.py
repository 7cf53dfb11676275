"""Open a causal model of transformers: its weights, their precision and their layout."""

from __future__ import annotations

from typing import Any

import torch

from zerogen.config.schema import PlmConfig
from zerogen.errors import UserError
from zerogen.plm.chat import CONSTANTS, PLAIN, Frame, chat_frame
from zerogen.plm.model import Plm
from zerogen.plm.pack import can_pack, pack_linears, return_freed_memory
from zerogen.plm.protocol import Codec, longest_row
from zerogen.support.weights import has_bfloat16, load_codec, load_pretrained, resolve


class PretrainedCodec(Codec):
    """The tokenizer of a PLM whose weights other processes load. Raises `UserError` when it is missing."""

    def __init__(self, config: PlmConfig) -> None:
        plm_config, tokenizer = load_codec(resolve(config.model, config.revision, "plm.model"), "plm.model")
        super().__init__(tokenizer, longest_row(plm_config), config.name, tokenizer_frame(tokenizer, config))


def open_pretrained(config: PlmConfig, device: torch.device) -> Plm:
    """Load a PLM onto a device. Raises `UserError` when its weights are missing or cannot be loaded."""
    from transformers import AutoModelForCausalLM

    source = resolve(config.model, config.revision, "plm.model")
    dtype = precision(config.dtype, device)
    model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "plm.model", dtype=dtype)
    model = model.to(device)
    if can_pack(dtype, device):
        pack_linears(model)
        return_freed_memory()
    return Plm(model, tokenizer, config.name, tokenizer_frame(tokenizer, config))


def tokenizer_frame(tokenizer: Any, config: PlmConfig) -> Frame:
    """Return how prompts are put to a PLM with that tokenizer. Raises `UserError` for a chat that it does not know."""
    if config.chat is not True:
        return PLAIN
    if not tokenizer.chat_template:
        raise UserError(f"plm.chat=true: plm.model={config.model} has no chat template; allowed is auto or false")

    def render(turns: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **CONSTANTS)
        except TemplateError as error:
            raise ValueError(str(error)) from error
        return str(text)

    frame = chat_frame(render, config.system)
    if frame is None:
        raise UserError(f"plm.chat=true: the chat template of plm.model={config.model} changes what the user says")
    return frame


def precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a name; `auto` is bfloat16 where the hardware computes in it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if has_bfloat16(device) else torch.float32
