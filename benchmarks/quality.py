"""Accuracy of the three settings on Rotten Tomatoes with the bundled models, as a Markdown table.

    python benchmarks/quality.py [--seeds 0 1 2] [--sizes 500 1000 2000 4000] [--cells FOLDER]

Takes hours on two cores. Each cell (setting, size, seed) is stored as a file when it is done and skipped when it is
there, so the benchmark can be run in parts. Test rows are 1,066 texts held out of the gold training split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from zerogen.settings.run import POOL_FORMAT, RUN_FORMAT


def run_cell(folder: Path, setting: str, n: int, seed: int) -> dict[str, Any]:
    """Run a cell with the command line, or read what an earlier run of the same code stored."""
    path = folder / f"{setting}-{n}-{seed}-{POOL_FORMAT}.{RUN_FORMAT}.json"
    if not path.is_file():
        overrides = ["experiment=demo", f"setting={setting}", f"seed={seed}", "limit=null", "log_every=null"]
        overrides += [f"n={n}"] if n else []
        command = [sys.executable, "-m", "zerogen", *overrides, f"output_dir={folder / 'outputs'}"]
        print("$", *command[1:], file=sys.stderr, flush=True)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results = [Path(line) / "result.json" for line in done.stdout.splitlines()]
        (result,) = (result for result in results if result.is_file())
        path.write_text(result.read_text(encoding="utf-8"), encoding="utf-8")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--cells", type=Path, default=Path(__file__).parent / "cells")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    rows = [("prompting", 0), *(("zerogen", n) for n in options.sizes), ("supervised", 0)]
    print("| setting | training rows | accuracy, mean ± sd | per seed | accepted |")
    print("|---|---|---|---|---|")
    for setting, n in rows:
        # PROMPTING draws nothing: its result is the same for every seed.
        seeds = options.seeds[:1] if setting == "prompting" else options.seeds
        cells = [run_cell(options.cells, setting, n, seed) for seed in seeds]
        numbers = [100 * cell["metrics"]["accuracy"] for cell in cells]
        spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
        asked = sum(cell["requests"] for cell in cells)
        rejected = sum(sum(cell["rejects"].values()) for cell in cells)
        accepted = f"{1 - rejected / asked:.0%}" if asked else ""
        each = " / ".join(f"{number:.1f}" for number in numbers)
        trained = f"{cells[0]['n_train']:,}"
        print(f"| {setting} | {trained} | {statistics.fmean(numbers):.1f}{spread} | {each} | {accepted} |", flush=True)


if __name__ == "__main__":
    main()
