from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import zerogen
from zerogen.config.bundled import load_task
from zerogen.config.task import normalise_task
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.errors import UserError


@pytest.mark.parametrize("name", ["sst2", "imdb", "rotten_tomatoes"])
def test_bundled_tasks_are_valid_and_hold_the_papers_prompts(name: str) -> None:
    task = load_task(name)
    assert task.context is not None
    assert task.context.prompt == 'Movie: "'
    for label in ("positive", "negative"):
        assert task.prompts[label] == f'The movie review in {label} sentiment for movie "<C>" is: "'
        assert task.scoring[label] == f'The movie review in {label} sentiment is: "<X>"'
    assert (task.context.max_new_tokens, task.max_new_tokens) == (10, 40)


QNLI = 'Information: "<C>"\nQuestion (answer {}in above information): "'
RTE = '"<C>"\nBased on the above description, the following sentence is definitely {}: "'


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("qnli", QNLI.format(""), QNLI.format("not ")), ("rte", RTE.format("correct"), RTE.format("wrong"))],
)
def test_pairs_are_as_in_the_paper_and_in_glue(name: str, first: str, second: str) -> None:
    task = load_task(name)
    assert task.labels == ["entailment", "not_entailment"]
    assert [task.prompts[label] for label in task.labels] == [first, second]
    assert [task.scoring[label] for label in task.labels] == [first + '<X>"', second + '<X>"']
    assert (task.debias.decay, task.debias.epsilon) == (200, 0.01)
    assert (task.min_words, task.max_new_tokens) == (10, 40)
    assert task.context is not None
    assert task.context.source == "gold"
    (gold,) = task.gold.values()
    assert (gold.hub, gold.labels) == ({"path": "nyu-mll/glue", "name": name}, {0: "entailment", 1: "not_entailment"})
    asked = name == "qnli"
    # GLUE gives QNLI as (question, sentence), RTE as (sentence1, sentence2), of which sentence 2 is written.
    assert task.order == (["text", "context"] if asked else ["context", "text"])
    assert (gold.text, gold.context) == (("question", "sentence") if asked else ("sentence2", "sentence1"))
    assert (task.parse.stop[0].text, task.parse.stop[0].keep) == (("?", True) if asked else ('"', False))
    assert task.parse.must_end == ("?" if asked else "")


@pytest.mark.parametrize(
    ("name", "labels", "columns"),
    [
        ("mnli", {0: "entailment", 1: "neutral", 2: "contradiction"}, ("hypothesis", "premise")),
        ("mrpc", {0: "different", 1: "equivalent"}, ("sentence2", "sentence1")),
        ("qqp", {0: "different", 1: "duplicate"}, ("question2", "question1")),
        ("ag_news", {0: "world", 1: "sports", 2: "business", 3: "technology"}, ("text", None)),
    ],
)
def test_further_tasks_read_the_hubs_columns(
    name: str, labels: dict[int, str], columns: tuple[str, str | None]
) -> None:
    task = load_task(name)
    assert sorted(task.labels) == sorted(labels.values())
    for gold in task.gold.values():
        assert gold.labels == labels
        assert (gold.text, gold.context) == columns
    assert sorted(task.prompts) == sorted(task.scoring) == sorted(task.labels)


@pytest.mark.parametrize("name", ["squad", "adversarial_qa"])
def test_questions_are_as_in_the_paper(name: str) -> None:
    task = load_task(name)
    assert task.prompts == {"question": 'The context is: "<C>"\n"<Y>" is the answer of the following question: "'}
    assert task.scoring == {"question": 'The context is: "<C>"\nThe answer to the question "<X>" is: "'}
    assert (task.min_words, task.max_length, task.answer_tokens, task.answers) == (5, 384, 30, "auto")
    assert (task.parse.must_end, task.parse.stop[0].keep) == ("?", True)
    assert task.context is not None
    assert (task.context.source, task.context.per_label) == ("gold", 2)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'rotten_tomatoes'"):
        load_task("rotten_tomato")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["bad"]}, "labels"),
        ({"labels": ["bad", "bad"]}, "labels"),
        ({"labels": ["bad", "good", "fine"]}, "prompts has none for label 'fine'"),
        ({"prompts": {"bad": "a", "good": "<C>", "god": "b"}}, "prompts: 'god' is unknown.*did you mean 'good'"),
        (
            {"prompts": {"bad": "<C>", "good": "<title>"}},
            "prompts.good: placeholder: '<title>' is unknown; allowed: <A>, <C>",
        ),
        ({"prompts": {"bad": "<X>", "good": "<C>"}}, "'<X>' is unknown"),
        ({"scoring": {"bad": "<X>", "good": "nothing"}}, "scoring.good.*must hold <X>"),
        ({"context": None}, "no context.source or context.prompt"),
        ({"prompts": {"bad": "a", "good": "b"}}, "none of the prompts holds <C>"),
        ({"further_prompts": [{"bad": "<C>"}]}, r"further_prompts\[0\] has none for label 'good'"),
        ({"further_prompts": [{"bad": "<C>", "good": "<X>"}]}, r"further_prompts\[0\].good: .*'<X>' is unknown"),
        ({"further_prompts": [{}]}, "further_prompts: allowed are prompts for each label, beside those of prompts"),
        (
            {"prompts": {}, "context": None, "further_prompts": [{"bad": "a", "good": "b"}]},
            "further_prompts: allowed are prompts for each label, beside those of prompts",
        ),
        ({"prompts": {"bad": "<A> <C>", "good": "<C>"}}, "prompts.bad holds <A>, but the task has no attributes"),
        ({"attributes": {"length": ["short"]}}, "attributes is set, but none of the prompts holds <A>"),
        ({"attributes": {"length": []}}, r"attributes.length=\[\]: allowed is a list of texts, none blank"),
        ({"attributes": {"length": ["short", " "]}}, r"attributes.length=\['short', ' '\]: allowed is a list"),
        ({"scoring": {"bad": "<X>", "good": "<A> <X>"}}, "scoring.good: placeholder: '<A>' is unknown; allowed: <X>"),
        ({"gold": {"own": GoldConfig()}}, "gold.own has no source"),
        ({"gold": {"own": GoldConfig(folder="x", labels={0: "goood"})}}, "labels.0: 'goood' is unknown.*'good'"),
        ({"gold_source": "web"}, "gold_source: 'web' is unknown"),
    ],
)
def test_a_wrong_field_is_named(task: TaskConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        normalise_task(replace(task, **change))


def test_a_task_with_several_wordings_is_valid(task: TaskConfig) -> None:
    """One set with `<A>` suffices, and one with `<C>`."""
    normalise_task(
        replace(task, further_prompts=[{"bad": "A bad <A>", "good": "A good <A>"}], attributes={"length": ["short"]})
    )


def test_a_task_file_is_read_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "spam.yaml"
    path.write_text("name: spam\nlabels: [spam, ham]\nprompts: {spam: 'Spam: \"', ham: 'Ham: \"'}\n")
    task = load_task(path)
    assert (task.labels, task.max_new_tokens, task.parse.stop[0].text) == (["spam", "ham"], 40, '"')


@pytest.mark.parametrize("content", ["name: [", "name: spam\nlables: [a, b]\n", "labels: 3\n"])
def test_a_malformed_task_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spam.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"spam.yaml"):
        load_task(path)


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """Importing a submodule sets it as an attribute of the package."""
    assert [name for name in zerogen.__all__ if find_spec(f"zerogen.{name}")] == []
