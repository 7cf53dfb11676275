"""How good the settings are on real data with the bundled models, as Markdown tables.

    python benchmarks/quality.py [--tasks rotten_tomatoes qnli rte squad] [--data-dir FOLDER] [--seeds 0 1 2]
                                 [--sizes 500 2000] [--methods default zerogen] [--tams minilm lstm] [--vectors FILE]
                                 [--plm-file FILE.gguf] [--cells FOLDER] [KEY=VALUE ...]

Takes hours on two cores. Each cell (task, setting, TAM, size, seed) is stored as a file when it is done and skipped
when it is there, so the benchmark can be run in parts. Rotten Tomatoes comes from a package (1,066 held-out texts are
reported on); the other tasks need --data-dir with their gold data, DIR/qnli/train.jsonl and so on, and are left out
without it. With --vectors, tam=lstm starts from a file of word vectors; with --plm-file, the PLM is that of a GGUF file
instead of SmolLM2. Further keys are given to every run.

Beside the settings stand what needs no model: the most frequent label; for questions one of the spans that rules find,
drawn at random, and the one of them whose surroundings share most words with the question (a sliding window).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random

from zerogen import load_gold, load_task
from zerogen.config.task import override
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Answer, AnswerPrediction, Prediction
from zerogen.generation.answers import rule_spans
from zerogen.metrics import evaluate, scalars
from zerogen.runs.identity import POOL_FORMAT, RULES_FORMAT, RUN_FORMAT
from zerogen.runs.result import Result

NOWHERE = Answer("", -1)


def named(tam: str, options: argparse.Namespace) -> str:
    """Name a TAM with the word vectors that it starts from."""
    return f"{tam}-{options.vectors.stem}" if tam == "lstm" and options.vectors else tam


def run_cell(options: argparse.Namespace, task: str, setting: str, method: str, tam: str, n: int, seed: int) -> Result:
    """Run a cell with the command line, or read what an earlier run of the same code stored."""
    plm = options.plm_file.stem if options.plm_file else "smollm2"
    parts = [task, setting, *([] if setting != "zerogen" else [method]), plm, named(tam, options), n, seed]
    parts += [word.replace("/", "_") for word in options.keys]
    path = options.cells / f"{'-'.join(map(str, parts))}-{POOL_FORMAT}.{RUN_FORMAT}.{RULES_FORMAT}.json"
    if not path.is_file():
        overrides = [f"task={task}", f"setting={setting}", "plm=smollm2", f"tam={tam}", f"seed={seed}", *options.keys]
        overrides += [f"method={method}"] if setting == "zerogen" else []
        overrides += [f"plm.model={options.plm_file}"] if options.plm_file else []
        overrides += [f"n={n}"] if n else []
        overrides += [f"tam.vectors={options.vectors}"] if named(tam, options) != tam else []
        overrides += [] if task == "rotten_tomatoes" else [f"data_dir={options.data_dir}"]
        outputs = options.cells / "outputs"
        command = [sys.executable, "-m", "zerogen", *overrides, f"output_dir={outputs}"]
        print("$", *command[1:], file=sys.stderr, flush=True)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        folders = [line for line in done.stdout.splitlines() if line.startswith(str(outputs))]
        results = [Path(line) / "result.json" for line in folders]
        (result,) = (result for result in results if result.is_file())
        path.write_text(result.read_text(encoding="utf-8"), encoding="utf-8")
    return Result.of(json.loads(path.read_text(encoding="utf-8")), str(path))


def trivial(task: TaskConfig, seeds: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of each baseline of a task; one that draws has them for each seed."""
    rows = load_gold(task, "validation")
    if task.kind != "qa":
        most = Counter(row.label for row in load_gold(task, "train")).most_common(1)[0][0]
        return {f"always '{most}'": [scalars(evaluate(task, rows, [Prediction(most, {})] * len(rows)))]}
    drawn = []
    for seed in seeds:
        random = Random(seed)
        drawn.append([random.choice(rule_spans(row.context or "") or [NOWHERE]) for row in rows])
    slid = [sliding_window(row.text, row.context or "") for row in rows]
    return {
        title: [
            scalars(evaluate(task, rows, [AnswerPrediction(one.text, one.start, 1.0) for one in found]))
            for found in each
        ]
        for title, each in {"a span by rules, at random": drawn, "a span by rules, by a sliding window": [slid]}.items()
    }


def sliding_window(question: str, passage: str) -> Answer:
    """Return the span by rules around which the passage's words are most those of the question.

    A window of as many words as question and answer have slides over each answer; a word of either counts
    log(1 + 1 / how often the passage holds it) (Richardson et al., 2013, algorithm 1; SQuAD's own baseline takes the
    spans from a parser instead).
    """
    words = [(match[0].lower(), match.start(), match.end()) for match in re.finditer(r"\w+", passage)]
    counts = Counter(word for word, _, _ in words)
    asked = set(re.findall(r"\w+", question.lower()))
    best, highest = NOWHERE, -1.0
    for answer in rule_spans(passage):
        end = answer.start + len(answer.text)
        inside = [place for place, (_, first, last) in enumerate(words) if first < end and last > answer.start]
        if not inside:
            continue
        wanted = asked | {words[place][0] for place in inside}
        worth = [math.log1p(1 / counts[word]) if word in wanted else 0.0 for word, _, _ in words]
        for start in range(max(0, inside[-1] + 1 - len(wanted)), inside[0] + 1):
            if (score := sum(worth[start : start + len(wanted)])) > highest:
                best, highest = answer, score
    return best


def line(name: str, rows: str, results: Sequence[dict[str, float]], accepted: str) -> str:
    """Return a row of a table: mean and standard deviation over seeds of each metric, in percent."""
    cells = []
    for metric in results[0]:
        values = [100 * result[metric] for result in results]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.1f}{spread} ({' / '.join(f'{value:.1f}' for value in values)})")
    return f"| {name} | {rows} | {' | '.join(cells)} | {accepted} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["rotten_tomatoes", "qnli", "rte", "squad"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tams", nargs="+", default=["minilm"])
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--settings", nargs="*", default=["prompting", "zerogen", "supervised"])
    parser.add_argument("--methods", nargs="+", default=["default"])
    parser.add_argument("--plm-file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--cells", type=Path, default=Path(__file__).parent / "cells")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        task = load_task(name)
        if name != "rotten_tomatoes":
            if options.data_dir is None or not (options.data_dir / name).is_dir():
                print(f"\n{name}: left out, its gold data is not there (--data-dir)")
                continue
            override(task, str(options.data_dir), None, None)
        baselines = trivial(task, options.seeds)
        metrics = next(iter(baselines.values()))[0]
        print(f"\n{name}\n\n| setting | training rows | {' | '.join(metrics)} | accepted |\n|---|---|---|---|---|")
        for title, results in baselines.items():
            print(line(title, "none", results, ""), flush=True)
        for setting in options.settings:
            # PROMPTING draws nothing: its result is the same for every seed.
            seeds = [0] if setting == "prompting" else options.seeds
            methods = options.methods if setting == "zerogen" else [""]
            tams = options.tams[:1] if setting == "prompting" else options.tams
            for method, tam in product(methods, tams):
                for n in options.sizes if setting == "zerogen" else [0]:
                    cells = [run_cell(options, name, setting, method, tam, n, seed) for seed in seeds]
                    asked = sum(cell.requests for cell in cells)
                    rejected = sum(sum(cell.rejects.values()) for cell in cells)
                    title = setting if setting == "prompting" else f"{setting}, {named(tam, options)}"
                    title += f", method={method}" if method not in ("", "default") else ""
                    found = [cell.scalars for cell in cells]
                    accepted = f"{1 - rejected / asked:.0%}" if asked else ""
                    print(line(title, f"{cells[0].n_train:,}", found, accepted), flush=True)


if __name__ == "__main__":
    main()
