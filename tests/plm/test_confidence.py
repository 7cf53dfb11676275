"""How sure the PLM is of its labels: the same as scoring each text alone by the model's own forward."""

import math

import pytest

from tests.conftest import toy_questions, toy_rows
from tests.plm.test_prompting import token_logprobs
from zerogen.config.task_schema import ParseConfig, StopConfig, TaskConfig
from zerogen.plm.confidence import label_confidence
from zerogen.plm.model import Plm
from zerogen.plm.prompting import softmax


def logprobs_after(plm: Plm, before: str, text: str) -> list[float]:
    spans = plm.tokenizer(before + text, return_offsets_mapping=True)["offset_mapping"][1:]
    values = token_logprobs(plm, before + text)
    return [value for value, (_, end) in zip(values, spans, strict=True) if end > len(before)]


@pytest.mark.parametrize("keep", [False, True])
def test_labels_compete_by_the_whole_text(plm: Plm, task: TaskConfig, keep: bool) -> None:
    stops = [StopConfig('"'), StopConfig("?", keep=True)]
    task.parse = ParseConfig(stop=stops[::-1] if keep else stops)  # the first one counts
    rows = toy_rows(10)
    found = label_confidence(plm, task, rows)
    assert found is not None
    for row, confidence in zip(rows, found, strict=True):
        scores = {
            label: sum(logprobs_after(plm, prompt.replace("<C>", row.context or ""), row.text + ("" if keep else '"')))
            for label, prompt in task.prompts.items()
        }
        assert confidence == pytest.approx(softmax(scores)[row.label], abs=1e-4)


def test_the_words_in_which_a_text_was_asked_for_do_not_count(gpt2: Plm, task: TaskConfig) -> None:
    rows = toy_rows(4)
    expected = label_confidence(gpt2, task, rows)
    task.prompts = {label: prompt.replace("A ", "A <A> ") for label, prompt in task.prompts.items()}
    task.further_prompts, task.attributes = [{"bad": "Bad: <A>", "good": "Good: <A>"}], {"length": ["short"]}
    assert label_confidence(gpt2, task, rows) == expected


def test_an_answer_is_as_sure_as_its_mean_token(plm: Plm) -> None:
    task = TaskConfig(
        name="asked",
        kind="qa",
        labels=["question"],
        prompts={"question": '"<C>" "<Y>": "'},
        scoring={"question": '"<C>" <X>: "'},
    )
    rows = toy_questions(6)
    found = label_confidence(plm, task, rows)
    assert found is not None
    for row, confidence in zip(rows, found, strict=True):
        values = logprobs_after(plm, f'"{row.context}" {row.text}: "', row.answers[0].text + '"')
        assert confidence == pytest.approx(math.exp(sum(values) / len(values)), abs=1e-4)
    assert label_confidence(plm, task, toy_questions(6, unanswered=1)) is None


def test_one_label_competes_with_nothing(gpt2: Plm) -> None:
    task = TaskConfig(name="one", labels=["only"], prompts={"only": 'Say: "'})
    assert label_confidence(gpt2, task, toy_rows(2)) is None
