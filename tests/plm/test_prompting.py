"""PROMPTING: what is scored, what is cut, and how answers end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from tests.conftest import causal_model
from zerogen.config.schema import SettingConfig
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.errors import UserError
from zerogen.plm.model import Plm
from zerogen.plm.prompting import prompt_answers, prompt_labels, prompt_sets, softmax
from zerogen.support.progress import Progress

PAIRS = TaskConfig(
    name="pairs",
    kind="pair",
    labels=["yes", "no"],
    scoring={"yes": '"<C>" It is right: "<X>"', "no": '"<C>" It is wrong: "<X>"'},
)
ROWS = [
    Example("1", "The movie", "yes", "Is this the question?"),
    Example("2", "A family", "no", "A bright, moving film"),
    Example("3", "The movie", "no", "Yes."),
]


def token_logprobs(plm: Plm, prompt: str) -> list[float]:
    """By the model's own forward, of all tokens but the first."""
    ids = torch.tensor([plm.encode(prompt)])
    logp = causal_model(plm.name)(ids).logits[0, :-1].log_softmax(-1)
    found: list[float] = logp.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()
    return found


@pytest.mark.parametrize("calibration", ["none", "prior"])
@pytest.mark.parametrize("scope", ["prompt", "text"])
def test_scores_are_means_over_what_the_setting_says(plm: Plm, scope: str, calibration: str) -> None:
    def score(label: str, context: str, text: str) -> float:
        before = PAIRS.scoring[label].split("<X>")[0].replace("<C>", context)
        values = token_logprobs(plm, before + text + '"')
        spans = plm.tokenizer(before + text + '"', return_offsets_mapping=True)["offset_mapping"][1:]
        if scope == "text":
            values = [value for value, (_, end) in zip(values, spans, strict=True) if end > len(before)]
        return sum(values) / len(values)

    setting = SettingConfig("prompting", scope, calibration)
    found, cut = prompt_labels(plm, PAIRS, ROWS, setting)
    assert cut == 0
    for row, prediction in zip(ROWS, found, strict=True):
        scores = {label: score(label, row.context or "", row.text) for label in PAIRS.labels}
        if calibration == "prior":
            scores = {label: value - score(label, row.context or "", "") for label, value in scores.items()}
        assert prediction.probabilities == pytest.approx(softmax(scores), abs=1e-5)


def test_the_context_is_cut_and_never_the_text(gpt2: Plm, monkeypatch: pytest.MonkeyPatch) -> None:
    long = Example("1", "The movie is long", "yes", "word " * 300)
    asked: list[str] = []

    def logprob(
        prompts: Sequence[str], *, begins: Sequence[int], progress: Progress | None
    ) -> Iterator[tuple[int, float]]:
        asked.extend(prompts)
        return enumerate([0.0] * len(prompts))

    monkeypatch.setattr(gpt2, "logprob", logprob)
    task = replace(PAIRS, scoring={"yes": '"<C>" It is right: "<X>"', "no": '"<C>" It is entirely wrong: "<X>"'})
    for calibration in ("none", "prior"):
        asked.clear()
        assert prompt_labels(gpt2, task, [long, ROWS[0]], SettingConfig("prompting", "prompt", calibration))[1] == 1
        contexts = {prompt.split('" It is')[0] for prompt in asked}
        assert len(contexts) == 2  # the same part for all labels, and for the prior
    asked.clear()
    prompt_labels(gpt2, PAIRS, [long])
    assert all(prompt.endswith(': "The movie is long"') for prompt in asked)
    assert all(100 < len(gpt2.encode(prompt)) <= 128 for prompt in asked)
    with pytest.raises(UserError, match="scoring: the prompt without <C> is"):
        prompt_labels(gpt2, PAIRS, [Example("1", "word " * 300, "yes", "short")])


@pytest.mark.parametrize("template", ['"<X>" is about "<C>"', 'It is about <C>: "<X>"'])
def test_the_text_is_found_beside_a_context_that_was_cut(
    gpt2: Plm, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(PAIRS, scoring={"yes": template, "no": template})
    begun: list[str] = []

    def logprob(
        prompts: Sequence[str], *, begins: Sequence[int], progress: Progress | None
    ) -> Iterator[tuple[int, float]]:
        begun.extend(prompt[begin:] for prompt, begin in zip(prompts, begins, strict=True))
        return enumerate([0.0] * len(prompts))

    monkeypatch.setattr(gpt2, "logprob", logprob)
    prompt_labels(gpt2, task, [Example("1", "The movie", "yes", "word " * 300)], SettingConfig("prompting", "text"))
    assert all(text.startswith('The movie"') for text in begun)


def test_a_prior_needs_something_to_score(gpt2: Plm) -> None:
    task = replace(PAIRS, scoring={"yes": '"<C>" so: "<X>', "no": '"<C>" not so: "<X>'})
    with pytest.raises(UserError, match=r"calibration=prior with .*scoring.yes ends in <X>"):
        prompt_labels(gpt2, task, ROWS, SettingConfig("prompting", "text", "prior"))
    task = replace(PAIRS, scoring={"yes": '"<C>" so: "<X>"', "no": '"<C>" not so: "<X>'})
    with pytest.raises(UserError, match=r"scoring.no ends in <X>"):
        prompt_labels(gpt2, task, ROWS, SettingConfig("prompting", "text", "prior"))


def test_answers_are_greedy_and_end_at_a_quote_or_a_line(plm: Plm) -> None:
    task = TaskConfig(
        name="asked", kind="qa", labels=["question"], scoring={"question": '"<C>" "<X>": "'}, answer_tokens=12
    )
    rows = [Example(str(i), text, "question", "Is this the question? Yes.") for i, text in enumerate(["Who?", "Why?"])]
    found, cut = prompt_answers(plm, task, rows)
    assert cut == 0
    for row, span in zip(rows, found, strict=True):
        model = causal_model(plm.name)
        ids = torch.tensor([plm.encode(f'"{row.context}" "{row.text}": "')])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        written = plm.decode(out[0, ids.shape[1] :].tolist())
        assert span.text == written.split('"')[0].split("\n")[0].strip()
        assert span.start == (row.context or "").find(span.text) if span.text else -1
        assert 0 < span.probability <= 1
    with pytest.raises(UserError, match="scoring is empty"):
        prompt_answers(plm, TaskConfig(name="asked", kind="qa", labels=["question"]), rows)


FURTHER = [
    {"yes": '"<C>" "<X>" That is right.', "no": '"<C>" "<X>" That is wrong.'},
    {"yes": 'Right: "<C>" "<X>"', "no": 'Wrong: "<C>" "<X>"'},
]


def test_where_prompts_begin_alike_only_what_follows_the_text_is_scored(plm: Plm) -> None:
    task = replace(PAIRS, further_scoring=FURTHER)
    sets, cut = prompt_sets(plm, task, ROWS, SettingConfig("prompting", prompts="all"))
    assert cut == 0 and len(sets) == 3 and sets[0] == prompt_labels(plm, PAIRS, ROWS)[0]
    for place, row in enumerate(ROWS):
        for number, prompts in enumerate(FURTHER, 1):
            scores = {}
            for label, prompt in prompts.items():
                filled = prompt.replace("<C>", row.context or "").replace("<X>", row.text)
                values = token_logprobs(plm, filled)
                after = len(filled) - len('" That is right.') if number == 1 else 0
                spans = plm.tokenizer(filled, return_offsets_mapping=True)["offset_mapping"][1:]
                values = [value for value, (_, end) in zip(values, spans, strict=True) if end > after]
                scores[label] = sum(values) / len(values)
            assert sets[number][place].probabilities == pytest.approx(softmax(scores), abs=1e-5)
    first, _ = prompt_sets(plm, task, ROWS, SettingConfig("prompting"))
    assert first == sets[:1]


@pytest.mark.parametrize("further", [None, *FURTHER])
def test_demonstrations_are_read_and_not_scored(plm: Plm, further: dict[str, str] | None) -> None:
    before = '"It rained" "The street is wet" That is right.\n\n'
    found, _ = prompt_labels(plm, PAIRS, ROWS, further=further, before=before)
    for row, prediction in zip(ROWS, found, strict=True):
        scores = {}
        for label, prompt in (further or PAIRS.scoring).items():
            filled = before + prompt.replace("<C>", row.context or "").replace("<X>", row.text)
            values = token_logprobs(plm, filled)
            after = len(filled) - len('" That is right.') if further == FURTHER[0] else len(before)
            spans = plm.tokenizer(filled, return_offsets_mapping=True)["offset_mapping"][1:]
            values = [value for value, (_, end) in zip(values, spans, strict=True) if end > after]
            scores[label] = sum(values) / len(values)
        assert prediction.probabilities == pytest.approx(softmax(scores), abs=1e-5)


def test_a_text_is_cut_so_that_demonstrations_fit(gpt2: Plm) -> None:
    task = TaskConfig(name="t", labels=["a", "b"], scoring={"a": 'good: "<X>"', "b": 'bad: "<X>"'})
    rows = [Example("0", "word " * 20, "a")]
    assert prompt_labels(gpt2, task, rows)[1] == 0
    assert prompt_labels(gpt2, task, rows, before="x" * 40 + "\n\n")[1] == 1


def test_demonstrations_that_leave_no_room_are_refused(gpt2: Plm) -> None:
    task = TaskConfig(name="t", labels=["a", "b"], scoring={"a": 'good: "<X>"', "b": 'bad: "<X>"'})
    before = "x" * (gpt2.max_positions - 10)
    with pytest.raises(UserError, match="scoring_demonstrations: those of 2 labels take 119 of the 128 tokens"):
        prompt_labels(gpt2, task, [Example("0", "word", "a")], before=before)
