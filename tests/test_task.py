from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import zerogen
from zerogen.config import GoldConfig, TaskConfig
from zerogen.errors import UserError
from zerogen.task import check_task, load_task


@pytest.mark.parametrize("name", ["sst2", "imdb", "rotten_tomatoes"])
def test_bundled_tasks_are_valid_and_hold_the_papers_prompts(name: str) -> None:
    task = load_task(name)
    assert task.context is not None
    assert task.context.prompt == 'Movie: "'
    for label in ("positive", "negative"):
        assert task.prompts[label] == f'The movie review in {label} sentiment for movie "<C>" is: "'
        assert task.scoring[label] == f'The movie review in {label} sentiment is: "<X>"'
    assert (task.context.max_new_tokens, task.max_new_tokens) == (10, 40)


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
            "prompts.good: placeholder: '<title>' is unknown; allowed: <C>",
        ),
        ({"prompts": {"bad": "<X>", "good": "<C>"}}, "'<X>' is unknown"),
        ({"scoring": {"bad": "<X>", "good": "nothing"}}, "scoring.good.*must hold <X>"),
        ({"context": None}, "no context.prompt"),
        ({"prompts": {"bad": "a", "good": "b"}}, "none of the prompts holds <C>"),
        ({"gold": {"own": GoldConfig()}}, "gold.own has no source"),
        ({"gold": {"own": GoldConfig(folder="x", labels={0: "goood"})}}, "labels.0: 'goood' is unknown.*'good'"),
        ({"gold_source": "web"}, "gold_source: 'web' is unknown"),
    ],
)
def test_a_wrong_field_is_named(task: TaskConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_task(replace(task, **change))


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
