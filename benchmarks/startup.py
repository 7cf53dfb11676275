"""Cost of `--help` and `--cfg job` beside a bare Hydra application's `--help`, and of labelling a text beside
transformers alone.

    python benchmarks/startup.py [--repeats 10]

The commands of a comparison take turns; the best of each counts: wall time of the first ones, processor time (user and
system) of labelling a text with a MiniLM that is trained on a few rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BARE = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass

main()
"""

PLAIN = """
import sys
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
folder, text = sys.argv[1:]
config = AutoConfig.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, config=config).eval()
with torch.inference_mode():
    found = model(**tokenizer([text], truncation=True, return_tensors="pt")).logits[0].softmax(-1)
label = int(found.argmax())
print(config.id2label[label], f"{float(found[label]):.4f}", text, sep="\\t")
"""

TRAIN = """
import sys
from pathlib import Path
from zerogen import Example, TaskConfig, TrainerConfig, fit

rows = [Example(str(i), f"a {('dull', 'moving')[i % 2]} film", ("bad", "good")[i % 2]) for i in range(16)]
task = TaskConfig(name="films", labels=["bad", "good"])
fit(rows, task, "minilm", trainer=TrainerConfig(epochs=1)).save(Path(sys.argv[1]))
"""


def best(
    commands: Mapping[str, Sequence[str]], repeats: int, clock: Callable[[], float], folder: str
) -> dict[str, float]:
    """Return the fewest seconds by a clock that each Python command takes; they take turns."""
    found = dict.fromkeys(commands, float("inf"))
    for _ in range(repeats):
        for name, arguments in commands.items():
            started = clock()
            command = [sys.executable, *arguments]
            offline = os.environ | {"HF_HUB_OFFLINE": "1"}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=offline)
            found[name] = min(found[name], clock() - started)
    return found


def processor_time() -> float:
    """Return the seconds, of user and system, that ended child processes have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(found: Mapping[str, float]) -> None:
    """Print seconds, and how many times those of the first command."""
    first = next(iter(found.values()))
    for name, seconds in found.items():
        print(f"{name:26} {seconds:6.3f} s   {seconds / first:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bare, plain, train = (Path(scratch) / f"{name}.py" for name in ("bare", "plain", "train"))
        for path, text in ((bare, BARE), (plain, PLAIN), (train, TRAIN)):
            path.write_text(text, encoding="utf-8")
        helps = {
            "bare Hydra --help": [str(bare), "--help"],
            "zerogen --help": ["-m", "zerogen", "--help"],
            "zerogen --cfg job": ["-m", "zerogen", "--cfg", "job"],
        }
        show(best(helps, options.repeats, time.perf_counter, scratch))
        subprocess.run([sys.executable, str(train), "tam"], check=True, cwd=scratch)
        labelling = {
            "transformers, one text": [str(plain), "tam", "a moving film"],
            "zerogen.predict, one text": ["-m", "zerogen.predict", "tam", "a moving film"],
        }
        show(best(labelling, options.repeats, processor_time, scratch))


if __name__ == "__main__":
    main()
