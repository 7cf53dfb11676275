"""The page of a run: in a browser, hostile texts stay texts, and the rows can be searched, filtered and sorted."""

import csv
import json
import re
import shutil
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.conftest import toy_questions
from tests.report.conftest import HOSTILE, LABELS, Made, Seen, result_of, watch
from tests.report.test_table import finished, of
from zerogen.config.schema import (
    Config,
    CorrectnessConfig,
    FilterConfig,
    PlmConfig,
    SettingConfig,
    TamConfig,
    TrainerConfig,
)
from zerogen.config.task import normalise_task
from zerogen.config.task_schema import ContextConfig, GoldConfig, ParseConfig, TaskConfig
from zerogen.data.records import Answer, Example
from zerogen.errors import UserError
from zerogen.generation.pool import Chunk, Journal
from zerogen.report.__main__ import main
from zerogen.report.finished import read_run
from zerogen.report.page import command, embedded, rejects, sample, trend, write_report
from zerogen.runs.result import Result
from zerogen.runs.summaries import read_trend
from zerogen.support.hashes import digest

SIGNS = {"\u0000": "\u2400", "\u0007": "\u2407", "\u202e": "[U+202E]", "\u202c": "[U+202C]"}


def shown(page: Page) -> list[str]:
    return page.locator("#list .text").all_text_contents()


def visible(text: str) -> str:
    return "".join(SIGNS.get(character, character) for character in text)


def every_page(page: Page) -> list[str]:
    found = shown(page)
    while page.locator("#next").is_visible() and page.locator("#next").is_enabled():
        page.locator("#next").click()
        found += shown(page)
    return found


def count(page: Page) -> int:
    words = page.locator("#count").text_content()
    assert words
    return int(words.split()[0].replace(",", ""))


def pick(page: Page, control: str, value: str) -> None:
    page.locator(control).select_option(value)


def look(browser: Browser, folder: Path) -> Seen:
    seen = Seen(browser.new_page(), [])
    watch(seen)
    seen.page.goto((folder / "report.html").as_uri())
    return seen


def copied(made: Made, place: Path, **result: Any) -> Path:
    """A copy of the run alone, with other values in its result.json."""
    folder = place / "toy" / "run"
    shutil.copytree(made.folder, folder)
    found = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(found | result))
    return folder


def test_hostile_texts_are_shown_as_text(opened: Seen, made: Made) -> None:
    page = opened.page
    assert sorted(every_page(page)) == sorted(visible(row["X"]) for row in made.rows)
    for details in page.locator("#list details").all():
        details.locator("summary").click()
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, main script, #list i, #list b").count() == 0
    assert opened.complaints == []


def test_hostile_rejects_are_shown_as_text(made: Made, browser: Browser, tmp_path: Path) -> None:
    reasons, texts = ["too_short", "too_long", "duplicate"], [*HOSTILE, ""]
    samples = [
        {
            "prompt": "of these not all is shown " * 9 + prompt,
            "text": text,
            "reason": reasons[i % 3],
            "label": LABELS[0],
        }
        for i, (prompt, text) in enumerate(zip(reversed(texts), texts, strict=True))
    ]
    folder = copied(made, tmp_path, requests=100, pool="elsewhere/pool", rejects=dict.fromkeys(reasons, 3))
    pool = Journal(folder.parent / "pool" / "texts.jsonl", shard_bytes=1)  # each chunk becomes a shard of its own
    for index, part in enumerate((samples[:2], samples[2:], [])):
        pool.append(Chunk(index, [], {}, {}, part, 0, 0.0))
    write_report(folder)
    seen = look(browser, folder)
    section = seen.page.get_by_role("region", name="What was rejected")
    for reason, details in zip(reasons, section.locator("details").all(), strict=True):
        details.locator("summary").click()
        mine = [sample for sample in samples if sample["reason"] == reason]
        assert details.locator("li > bdi").all_text_contents() == [visible(one["text"]) or "(nothing)" for one in mine]
        ends = ["…" + visible(one["prompt"][-160:]) for one in mine]
        assert details.locator("small bdi").all_text_contents() == ends
    assert section.locator("img, script, i").count() == 0
    assert seen.page.evaluate("window.owned") is None
    assert seen.complaints == []
    seen.page.close()


def test_hostile_names_and_configuration_are_shown_as_text(
    made: Made, browser: Browser, tiny_encoder: Path, tmp_path: Path
) -> None:
    labels = ['</script><img src="x" onerror="window.owned = 1">', "<script>window.owned = 1</script>\"'&amp;"]
    rename = dict(zip(LABELS, labels, strict=True))
    rows = [{"C": row["C"], "X": row["X"], "label": rename[row["label"]], "logprob": -1.5} for row in made.rows[:20]]
    files = dict(made.config.task.gold["own"].files)
    written = {"given": rows}
    for split, path in files.items():
        written[split] = [row | {"label": rename[row["label"]]} for row in read(Path(path))]
        files[split] = str(tmp_path / f"{split}.jsonl")
    for name, some in written.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    task = replace(
        made.config.task,
        labels=labels,
        prompts=dict.fromkeys(labels, f'{HOSTILE[1]} "<C>": "'),
        scoring={},
        context=ContextConfig(prompt="".join(HOSTILE)),
        gold={"own": GoldConfig(files=files)},
    )
    config = replace(
        made.config,
        task=task,
        tam=replace(made.config.tam, name="<i>lstm"),
        dataset=str(tmp_path / "given.jsonl"),
        correctness=CorrectnessConfig(str(tiny_encoder)),
        output_dir=str(tmp_path / "<b>outputs"),
        command=["task=toy", *(f"answers={text}" for text in HOSTILE[:3])],
    )
    folder = result_of(config)
    seen = look(browser, folder)
    page = seen.page
    assert page.locator("#label option").all_text_contents() == ["all", *sorted(labels)]
    assert page.locator("[aria-label='Confusion matrix'] th").all_text_contents() == ["gold", *labels, *labels]
    for words in [f"Rows of {label}" for label in labels] + [f"TAM {config.tam.name}"]:
        assert words in page.locator("body").inner_text()
    assert page.locator("[aria-label='Agreement of the evaluator'] tbody th").all_text_contents() == ["all", *labels]
    assert page.locator("#correct ~ ul li").count() > 0
    assert page.locator("pre").all_text_contents() == [
        command(read_run(folder).result),
        (folder / "config.yaml").read_text(),
    ]
    page.locator("#list summary").first.click()
    page.locator("#list dt").first.wait_for()
    row = read(folder / "toy-dataset.jsonl")[0]
    prompt = task.prompts[row["label"]].replace("<C>", row["C"])
    assert page.locator("#list dd").nth(1).text_content() == visible(prompt)
    pick(page, "#label", labels[0])
    assert count(page) == 10
    assert page.locator("main img, main script, main i, main b").count() == 0
    assert page.evaluate("window.owned") is None
    assert seen.complaints == []
    page.close()


def test_search_is_for_what_is_written(opened: Seen, made: Made) -> None:
    page = opened.page
    for words in ("<SCRIPT>", "boring film", "&amp;", "\u062c\u0645\u064a\u0644", "nowhere at all"):
        page.locator("#search").fill(words)
        page.locator("#search").press("Enter")
        expected = [row["X"] for row in made.rows if words.lower() in (row["X"] + "\n" + row["C"]).lower()]
        assert sorted(every_page(page)) == sorted(map(visible, expected))


def test_labels_and_doubt_filter(opened: Seen, made: Made) -> None:
    page = opened.page
    pick(page, "#label", LABELS[1])
    assert sorted(every_page(page)) == sorted(visible(row["X"]) for row in made.rows if row["label"] == LABELS[1])
    pick(page, "#label", "")
    lines = read(made.folder / "measured-rows.jsonl")
    for choice, agreed in (("disputed", 0), ("agreed", 1)):
        pick(page, "#doubt", choice)
        assert count(page) == sum(line["agreement"] == agreed for line in lines)
    assert all("agrees" in about for about in page.locator("#list .about").all_text_contents())


def test_what_the_evaluator_disputes_most_is_listed(opened: Seen, made: Made) -> None:
    texts = {row["uid"]: row["X"] for row in read(made.folder / "toy-dataset.jsonl")}
    lines = [line for line in read(made.folder / "measured-rows.jsonl") if line["agreement"] == 0]
    lines = sorted(lines, key=lambda line: line["probability"])[:10]
    assert lines
    assert opened.page.locator("#correct ~ ul li > bdi").all_text_contents() == [
        visible(texts[line["uid"]]) for line in lines
    ]


def test_what_the_plm_thinks_filters_and_orders(made: Made, browser: Browser, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    rows = read(folder / "toy-dataset.jsonl")
    for i, row in enumerate(rows):  # 127 rows: none has the value of another
        row["logprob"] = -(53 * i % 127) / 10
    lines = {row["uid"]: {"uid": row["uid"], "margin": (41 * i % 127) / 127} for i, row in enumerate(rows)}
    for i, row in enumerate(rows[:100]):  # the others were not scored
        lines[row["uid"]]["confidence"] = (37 * i % 127) / 127
    for name, some in {"toy-dataset": rows, "measured-rows": lines.values()}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    measures = json.loads((folder / "measures.json").read_text())
    measures["asked_for"]["dataset"] = digest(str(folder / "toy-dataset.jsonl"))  # of these rows
    (folder / "measures.json").write_text(json.dumps(measures))
    write_report(folder)
    page = look(browser, folder).page
    orders: dict[str, Any] = {
        "least confident first": lambda row: lines[row["uid"]].get("confidence", 2),
        "most confident first": lambda row: -lines[row["uid"]].get("confidence", -1),
        "smallest margin first": lambda row: lines[row["uid"]]["margin"],
        "least probable text first": lambda row: row["logprob"],
    }
    for words, key in orders.items():
        page.locator("#order").select_option(label=words)
        assert every_page(page) == [visible(row["X"]) for row in sorted(rows, key=key)], words
    page.locator("#doubt").select_option(label="confidence below 50 %")
    unsure = [row["X"] for row in rows if lines[row["uid"]].get("confidence", 1) < 0.5]
    assert sorted(every_page(page)) == sorted(map(visible, unsure))
    page.close()


@pytest.mark.parametrize("order", ["", "probability", "long", "short"])
def test_rows_are_ordered(opened: Seen, made: Made, order: str) -> None:
    rows = read(made.folder / "toy-dataset.jsonl")
    probability = {line["uid"]: line["probability"] for line in read(made.folder / "measured-rows.jsonl")}
    keys: dict[str, Any] = {
        "": lambda row: 0,
        "probability": lambda row: probability[row["uid"]],
        "long": lambda row: -len(row["X"]),
        "short": lambda row: len(row["X"]),
    }
    pick(opened.page, "#order", order)
    assert every_page(opened.page) == [visible(row["X"]) for row in sorted(rows, key=keys[order])]


def test_a_row_is_copied_whole(opened: Seen, made: Made) -> None:
    page = opened.page
    page.locator("#search").fill("NUL")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('1 of')")  # while one types
    page.locator("#list summary").click()
    page.locator("#list dt").first.wait_for()
    page.locator("#list button").click()
    page.get_by_text("Copied").wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (copied["text"], copied["context"], copied["label"]) == (HOSTILE[4], HOSTILE[4][::-1], LABELS[0])


def test_the_keyboard_is_enough(opened: Seen) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips to the rows
    assert page.evaluate("document.activeElement.id") == "browser"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "search"
    page.locator("#list summary").first.focus()
    page.keyboard.press("Enter")
    page.locator("#list dt").first.wait_for()


@pytest.mark.parametrize(
    "screen",
    [
        {"viewport": {"width": 1200, "height": 900}},
        {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
    ],
    ids=["desktop", "dark", "phone"],
)
def test_axe_finds_nothing_serious(browser: Browser, made: Made, screen: dict[str, Any]) -> None:
    context = browser.new_context(**screen)
    page = context.new_page()
    page.goto((made.folder / "report.html").as_uri())
    for summary in page.locator("summary").all()[:5]:
        summary.click()
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_without_javascript_the_numbers_are_there(browser: Browser, made: Made) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((made.folder / "report.html").as_uri())
    result = json.loads((made.folder / "result.json").read_text())
    assert f"{100 * result['metrics']['accuracy']:.1f} %" in page.locator(".numbers").inner_text()
    assert page.locator("figure svg").count() == 2
    assert page.locator("noscript p").is_visible()
    context.close()


def test_two_hundred_thousand_rows_are_a_page_below_ten_megabytes(browser: Browser, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(made.folder, folder)
    rows = read(folder / "toy-dataset.jsonl")
    with (folder / "toy-dataset.jsonl").open("w") as file:
        for number in range(200_000):
            row = rows[number % len(rows)] | {"uid": f"{number}"}
            file.write(json.dumps(row | {"X": f"{number} " + 8 * row["X"]}) + "\n")
    write_report(folder)
    assert 5_000_000 < (folder / "report.html").stat().st_size < 10_000_000
    context = browser.new_context()
    seen = Seen(context.new_page(), [])
    watch(seen)
    seen.page.goto((folder / "report.html").as_uri())
    assert 10_000 < count(seen.page) < 200_000
    assert "of 200,000 rows" in seen.page.locator("main").inner_text()
    seen.page.locator("#search").fill("boring")
    seen.page.wait_for_function("document.getElementById('page').textContent.startsWith('Page 1 of')")
    assert seen.complaints == []
    context.close()


def test_a_sample_has_each_label_in_proportion_and_from_everywhere() -> None:
    rows = [{"label": "rare" if i % 10 == 0 else "common", "text": f"row {i}", "at": i} for i in range(10_000)]
    whole = len(embedded(rows))
    kept = sample(rows, whole // 4)
    assert sample(rows, whole + 1) == rows
    assert len(kept) == pytest.approx(2500, rel=0.02)
    assert [row["at"] for row in kept] == sorted(row["at"] for row in kept)
    assert Counter(row["label"] for row in kept)["rare"] == pytest.approx(len(kept) / 10, abs=2)
    quarters = Counter(row["at"] // 2500 for row in kept)
    assert max(quarters.values()) - min(quarters.values()) <= 0.02 * len(kept)


def test_embedded_json_cannot_end_its_element() -> None:
    text = embedded({"texts": HOSTILE})
    assert json.loads(text) == {"texts": HOSTILE}
    assert not re.search("[<>&\u2028\u2029]", text)


def test_the_trend_is_the_mean_over_seeds_beside_the_other_settings(made: Made) -> None:
    (curve,), levels, metric = trend(read_run(made.folder))
    of = [read_trend(path) for path in made.folder.parent.glob("zerogen_*/trend.csv")]
    assert (len(of), metric, list(curve.sizes)) == (2, "accuracy", [40, 80, 120, 127])
    for size, mean, spread in zip(curve.sizes, curve.means, curve.spreads, strict=True):
        values = [v for points in of for (n, _, name), v in points.items() if (n, name) == (size, "accuracy")]
        assert (mean, spread) == (statistics.fmean(values), statistics.stdev(values))
    with (Path(made.config.output_dir) / "results.csv").open() as file:
        others = {row["setting"]: float(row["accuracy"]) for row in csv.DictReader(file) if row["tam"] != "encoder"}
    assert {level.name: round(level.value, 4) for level in levels} == {
        "PROMPTING, tiny": others["prompting"],
        "SUPERVISED, 60 gold rows": others["supervised"],
    }


def test_the_trend_is_compared_on_the_same_gold_rows_with_the_same_models(tmp_path: Path) -> None:
    def made(name: str, value: float, config: Config, on: dict[str, Any], place: str = "outputs") -> Path:
        folder = finished(tmp_path / place, name, {"accuracy": value}, config)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | on))
        return folder

    folder = made("z0", 0.7, of("zerogen", "films", seed=0), {})
    made("z1", 0.8, of("zerogen", "films", seed=1), {})
    made("s", 0.9, of("supervised", "films"), {})
    made("p", 0.6, of("prompting", "films"), {})
    made("other tam", 0.1, of("supervised", "films", tam=TamConfig("lstm")), {})
    made("other plm", 0.1, of("prompting", "films", plm=PlmConfig("opt", "opt")), {})
    made("quiz", 0.1, of("supervised", "quiz"), {}, "outputs/films")  # films/quiz/quiz, another task
    others: list[dict[str, Any]] = [{"n_eval": 50}, {"evaluated_on": "own/test"}]
    for i, on in enumerate(others):
        for setting in ("supervised", "prompting", "zerogen"):
            made(f"{setting} {i}", 0.1, of(setting, "films", seed=2), on)
    (curve,), levels, _ = trend(read_run(folder))
    assert [(level.name.partition(",")[0], level.value) for level in levels] == [
        ("PROMPTING", 0.6),
        ("SUPERVISED", 0.9),
    ]
    assert curve.means == pytest.approx((0.75, 0.75))
    assert curve.seeds == [2, 2]


def test_measures_and_costs_are_those_of_the_files(made: Made, browser: Browser, tmp_path: Path) -> None:
    folder = copied(made, tmp_path, seconds={"load": 0.06, "generate": 4321.26}, tokens={"generate": 98765})
    measures = json.loads((folder / "measures.json").read_text()) | {"seconds": {"diversity": 7.77}}
    (folder / "measures.json").write_text(json.dumps(measures))
    write_report(folder)
    page = look(browser, folder).page

    def cells(region: str) -> list[list[str]]:
        lines = page.get_by_role("region", name=region).locator("tbody tr").all()
        return [line.locator("th, td").all_text_contents() for line in lines]

    assert cells("Seconds per stage") == [
        ["load", "0.1", ""],
        ["generate", "4,321.3", "98,765"],
        ["measuring: diversity", "7.8", ""],
    ]
    diverse = measures["diversity"]
    bleu, distinct = ([f"{100 * value:.1f}" for value in diverse[name]] for name in ("self_bleu", "distinct"))
    assert [line[1] for line in cells("Diversity")][:2] == [" / ".join(bleu), " % / ".join(distinct) + " %"]
    page.close()


def test_generated_rows_have_their_prompt_and_rejected_ones_a_reason(
    browser: Browser, made: Made, tiny_causal: Path, tmp_path: Path
) -> None:
    task = replace(made.config.task, context=ContextConfig(prompt='"', max_new_tokens=20), min_words=1)
    config = replace(
        made.config,
        task=task,
        dataset=None,
        n=8,
        log_every=None,
        train=False,
        plm=PlmConfig("tiny", str(tiny_causal)),
        filter=FilterConfig(min_words=1, max_words=2, min_acceptance=0),
        correctness=CorrectnessConfig(None),
        output_dir=str(tmp_path),
    )
    folder = result_of(config)
    result = json.loads((folder / "result.json").read_text())
    found = rejects(folder, read_run(folder).result)
    assert found
    assert {one["reason"]: one["count"] for one in found} == result["rejects"]
    for one in found:
        assert len(one["examples"]) == min(3, one["count"])
        assert all(example["reason"] == one["reason"] for example in one["examples"])
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    for one in found:
        page.get_by_text(f"{one['reason'].replace('_', ' ')}: {one['count']}").click()
    assert page.locator("#rejects ~ details li").count() == sum(len(one["examples"]) for one in found)
    row = read(folder / "toy-dataset.jsonl")[0]
    page.locator("#list summary").first.click()
    page.locator("#list dt").first.wait_for()
    assert page.locator("#list dd").nth(1).text_content() == visible(
        task.prompts[row["label"]].replace("<C>", row["C"])
    )
    page.close()


def test_a_broken_run_beside_it_and_missing_predictions_do_not_matter(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "toy"
    shutil.copytree(made.folder.parent, place)
    (place / "broken").mkdir()
    (place / "broken" / "result.json").write_text("{")
    folder = place / made.folder.name
    (folder / "predictions.jsonl").unlink()
    write_report(folder)
    assert "SUPERVISED, 60 gold rows" in (folder / "report.html").read_text()


@pytest.mark.parametrize("setting", ["prompting", "supervised", "zerogen"])
def test_questions_have_a_page(made: Made, tmp_path: Path, browser: Browser, setting: str, tiny_encoder: Path) -> None:
    def line(row: Example) -> dict[str, Any]:
        answers = {"text": [row.answers[0].text], "answer_start": [row.answers[0].start]}
        return {"id": row.uid, "context": row.context, "question": row.text, "answers": answers}

    rows = toy_questions(48)
    for name, some in {"given": rows[:16], "train": rows[16:32], "validation": rows[32:]}.items():
        some = [replace(row, context=f"{name}. {row.context}") for row in some]
        some = [
            replace(row, answers=(Answer(answer.text, (row.context or "").index(answer.text)),))
            for row in some
            for answer in row.answers
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line(row)) + "\n" for row in some))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    task = TaskConfig(
        name="ask",
        kind="qa",
        prompts={"question": '"<C>" "<Y>" answers: "'},
        scoring={"question": '"<C>" "<X>" is answered by "'},
        context=ContextConfig(source="gold"),
        gold={"own": GoldConfig(files=files, text="question", context="context", uid="id")},
    )
    normalise_task(task)
    folder = result_of(
        replace(
            made.config,
            task=task,
            setting=SettingConfig(setting),
            dataset=str(tmp_path / "given.jsonl") if setting == "zerogen" else None,
            correctness=CorrectnessConfig(str(tiny_encoder)),
            log_every=None,
            output_dir=str(tmp_path / "outputs"),
        )
    )
    seen = Seen(browser.new_page(), [])
    watch(seen)
    seen.page.goto((folder / "report.html").as_uri())
    assert count(seen.page) == 16
    words = seen.page.locator("main").inner_text()
    assert "exact match" in words
    assert ("Are its answers right?" in words) == (setting == "zerogen")
    assert seen.complaints == []
    seen.page.close()


def test_a_task_without_gold_data_has_a_page(made: Made, tmp_path: Path) -> None:
    task = replace(made.config.task, gold={})
    config = replace(made.config, task=task, correctness=CorrectnessConfig(None), output_dir=str(tmp_path))
    page = (result_of(config) / "report.html").read_text()
    assert "there is no gold data to report on" in page
    assert "Does more data help?" not in page


@pytest.mark.parametrize("judged", [4, 100])
def test_confidence_is_shown_where_some_or_all_rows_are_judged(
    made: Made, tiny_causal: Path, tiny_encoder: Path, tmp_path: Path, judged: int
) -> None:
    config = replace(
        made.config,
        task=replace(
            made.config.task,
            context=ContextConfig(prompt='"', max_new_tokens=20),
            min_words=1,
            parse=ParseConfig(fallback="sentence"),
        ),
        dataset=None,
        n=16,
        log_every=None,
        plm=PlmConfig("tiny", str(tiny_causal)),
        filter=FilterConfig(min_words=1, min_acceptance=0),
        correctness=CorrectnessConfig(str(tiny_encoder), judged),
        output_dir=str(tmp_path),
    )
    page = (result_of(config) / "report.html").read_text()
    assert "What the PLM itself thinks" in page
    assert ("agreement of the evaluator" in page) == (judged == 100)


def test_a_seed_is_counted_once(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "toy"
    shutil.copytree(made.folder.parent, place)
    for folder in list(place.iterdir()):
        if (folder / "result.json").is_file():  # as if an earlier version had named them otherwise
            shutil.copytree(folder, place / f"{folder.name}-again")
    (curve,), levels, _ = trend(read_run(place / made.folder.name))
    assert set(curve.seeds) == {2}
    assert [level.seeds for level in levels] == [1, 1]


def test_of_a_seed_the_largest_run_counts(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "toy"
    shutil.copytree(made.folder.parent, place)
    (other,) = (folder for folder in place.glob("zerogen_*") if folder.name != made.folder.name)
    smaller = place / f"{other.name}-smaller"
    shutil.copytree(other, smaller)
    for name, key in (("result.json", "n_train"), ("config.yaml", "n")):
        found = yaml.safe_load((smaller / name).read_text()) | {key: 80}
        (smaller / name).write_text(json.dumps(found))
    (smaller / "trend.csv").write_text("n,seed,metric,value\n80,1,accuracy,0.0\n")
    expected = trend(read_run(made.folder))
    assert trend(read_run(place / made.folder.name)) == expected
    (smaller / "trend.csv").write_text("n,seed\n80")
    assert trend(read_run(place / made.folder.name)) == expected
    (other / "trend.csv").write_text("n,seed,metric,value\n80,1,accuracy\n")
    (curve,), _, _ = trend(read_run(place / made.folder.name))
    assert set(curve.seeds) == {1}  # a damaged neighbour is left out


def test_an_evaluator_s_run_becomes_one_s_own_when_it_is_asked_for(made: Made, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(made.config.output_dir, outputs)
    (judge,) = (path.parent for path in outputs.rglob("result.json") if json.loads(path.read_text())["evaluator"])
    before = read_run(judge)
    keys = {name: before.config[name] for name in ("tam", "trainer")}
    config = replace(
        made.config,
        setting=SettingConfig("supervised"),
        tam=TamConfig(**keys["tam"]),
        trainer=TrainerConfig(**keys["trainer"]),
        seed=before.result.seed,
        dataset=None,
        command=["setting=supervised"],
        output_dir=str(outputs),
    )
    assert Path(result_of(config)) == judge
    after = read_run(judge)
    assert (after.result.evaluator, after.result.command) == (False, ["setting=supervised"])
    assert after.result.metrics == before.result.metrics
    assert str(judge) in (outputs / "results.csv").read_text()


def test_probabilities_that_are_no_numbers_do_not_matter(made: Made, browser: Browser, tmp_path: Path) -> None:
    (folder,) = made.folder.parent.glob("supervised_none_lstm_*")
    copy = tmp_path / "toy" / "run"
    shutil.copytree(folder, copy)
    text = (copy / "predictions.jsonl").read_text()
    (copy / "predictions.jsonl").write_text(re.sub(r": 0\.\d+", ": NaN", text))
    assert "NaN" in (copy / "predictions.jsonl").read_text()
    write_report(copy)
    seen = look(browser, copy)
    assert count(seen.page) == 60
    assert seen.complaints == []
    seen.page.close()


def test_rows_that_trained_nothing_are_said_to(made: Made, tmp_path: Path) -> None:
    config = replace(made.config, train=False, correctness=CorrectnessConfig(None), output_dir=str(tmp_path))
    words = " ".join((result_of(config) / "report.html").read_text().partition("</header>")[0].split())
    assert "trained on" not in words
    assert "synthetic rows; not evaluated." in words


def test_a_label_is_filtered_as_it_is_written(browser: Browser, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made.folder, folder)
    old, new = LABELS[1], "very  good\t"
    rows = [row | {"label": new if row["label"] == old else row["label"]} for row in read(folder / "toy-dataset.jsonl")]
    rows[0]["logprob"] = float("nan")
    (folder / "toy-dataset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = read_config(folder)
    config["task"]["labels"] = [LABELS[0], new]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_report(folder)
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    page.locator("#label").select_option(index=2)
    assert count(page) == sum(row["label"] == new for row in rows) > 0
    page.close()


def test_the_command_runs_it_again_with_its_own_seed(made: Made) -> None:
    result = Result.of(json.loads((made.folder / "result.json").read_text()), "result.json")
    assert command(result) == "python -m zerogen task=toy seed=2"
    assert command(replace(result, command=[])) is None
    words = ["experiment=sweep", "++seed=7", "+seeds=[1,2]", "logger=wandb", "logger.mode=offline", "n=9"]
    assert command(replace(result, command=words)) == "python -m zerogen experiment=sweep n=9 seeds=null seed=2"


@pytest.mark.parametrize("setting", ["prompting", "supervised"])
def test_other_settings_have_a_page_of_gold_rows(made: Made, setting: str) -> None:
    (folder,) = made.folder.parent.glob(f"{setting}_*_{'none' if setting == 'prompting' else 'lstm'}_*")
    page = (folder / "report.html").read_text()
    assert "Gold rows and predictions" in page
    assert f"toy, {setting.upper()}" in page


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        write_report(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def read_config(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())
