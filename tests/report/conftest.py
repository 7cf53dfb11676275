"""A finished run of each setting on hostile texts, and a headless browser to look at its page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright
from rich.console import Console

from tests.conftest import toy_rows
from zerogen.config.schema import Config, CorrectnessConfig, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.jobs import run_one

LABELS = ["bad", "<b>good</b>"]
HOSTILE = [
    "<script>window.owned = 1</script> and what else a film can do to a page",
    '</script><img src="x" onerror="window.owned = 1"> this one ends the element',
    "\"quotes\" 'of' `every` kind & &amp; <i>tags</i> ${window.owned = 1} {{ 7 * 7 }}",
    "\u202eturned around\u202c and a word",
    "a\u0000NUL, a \u0007bell and\u2028a separator",
    "\u0641\u064a\u0644\u0645 \u062c\u0645\u064a\u0644 then left again",
    "<!-- a comment that never ends",
]


@dataclass(frozen=True)
class Made:
    """A run folder, and what was in its dataset."""

    folder: Path
    rows: list[dict[str, Any]]
    config: Config


def result_of(config: Config) -> Path:
    return run_one(config, Console(quiet=True)).folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_causal: Path) -> Made:
    place = tmp_path_factory.mktemp("page")
    rows = [
        {"C": text[::-1], "X": text, "label": LABELS[i % 2]}
        for i, text in enumerate([*HOSTILE, *(row.text for row in toy_rows(120))])
    ]
    (place / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = [{"text": row.text, "label": LABELS[row.label == "good"]} for row in toy_rows(120)]
    files = {"train": gold[:60], "validation": gold[60:]}
    for split, some in files.items():
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    task = TaskConfig(
        name="toy",
        labels=LABELS,
        max_length=64,
        prompts=dict(zip(LABELS, ('Bad "<C>": "', 'Good "<C>": "'), strict=True)),
        scoring=dict(zip(LABELS, ('Bad "<X>"', 'Good "<X>"'), strict=True)),
        gold={"own": GoldConfig(files={split: str(place / f"{split}.jsonl") for split in files})},
    )
    config = Config(
        task=task,
        setting=SettingConfig("zerogen"),
        plm=PlmConfig("tiny", str(tiny_causal)),
        tam=TamConfig("lstm", kind="lstm", hidden=8, embedding=8),
        trainer=TrainerConfig(lr=1e-2, epochs=1),
        correctness=CorrectnessConfig(str(tiny_encoder)),
        dataset=str(place / "given.jsonl"),
        dataset_labels={},
        log_every=40,
        gpu="none",
        output_dir=str(place / "outputs"),
        command=["task=toy", "seeds=[1,2]"],
    )
    result_of(replace(config, setting=SettingConfig("prompting"), dataset=None))
    result_of(replace(config, setting=SettingConfig("supervised"), dataset=None))
    result_of(replace(config, seed=1))
    return Made(result_of(replace(config, seed=2)), rows, config)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium)
        yield found
        found.close()


@dataclass
class Seen:
    """A page, and what it complained about or asked for on the network."""

    page: Page
    complaints: list[str]


@pytest.fixture
def opened(browser: Browser, made: Made) -> Iterator[Seen]:
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen = Seen(context.new_page(), [])
    watch(seen)
    seen.page.goto((made.folder / "report.html").as_uri())
    yield seen
    context.close()


def watch(seen: Seen) -> None:
    def complain_of_network(request: Request) -> None:
        if not request.url.startswith("file:"):
            seen.complaints.append(request.url)

    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
    seen.page.on("request", complain_of_network)
