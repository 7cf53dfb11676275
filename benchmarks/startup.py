"""Cost of `--help` and `--cfg job` beside a bare Hydra application's `--help`.

    python benchmarks/startup.py [--repeats 10]

The commands take turns; the best of each counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass

main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bare = Path(scratch) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        commands = {
            "bare Hydra --help": [str(bare), "--help"],
            "zerogen --help": ["-m", "zerogen", "--help"],
            "zerogen --cfg job": ["-m", "zerogen", "--cfg", "job"],
        }
        best = dict.fromkeys(commands, float("inf"))
        for _ in range(options.repeats):
            for name, arguments in commands.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=scratch)
                best[name] = min(best[name], time.perf_counter() - started)
    for name, seconds in best.items():
        print(f"{name:20} {seconds:6.3f} s   {seconds / best['bare Hydra --help']:.2f} x")


if __name__ == "__main__":
    main()
