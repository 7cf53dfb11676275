"""Generation: exact quotas, prefixes, resuming, and prompts that do not work."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from zerogen.config.schema import DecodingConfig, FilterConfig
from zerogen.config.task_schema import (
    ContextConfig,
    ContrastConfig,
    DebiasConfig,
    ParseConfig,
    StopConfig,
    TaskConfig,
)
from zerogen.data.records import Example
from zerogen.data.synthetic import load_synthetic, write_folder
from zerogen.errors import UserError
from zerogen.generation.contexts import Contexts, chunk_size
from zerogen.generation.generator import Generator
from zerogen.generation.pool import SHARD_BYTES, Journal
from zerogen.generation.sources import prompt_warnings
from zerogen.plm.model import Plm
from zerogen.support.progress import Progress

DECODING = DecodingConfig(top_p=1.0, batch_size=8, chunk_size=32)
FILTERS = FilterConfig(min_words=1, patience=64, min_acceptance=0.0)


def generated(
    task: TaskConfig, plm: Plm, n: int, folder: Path | None = None, seed: int = 1, shard_bytes: int = SHARD_BYTES
) -> list[Example]:
    texts, contexts = (
        Journal.open(folder / name if folder else None, appends=True, shard_bytes=shard_bytes)
        for name in ("texts.jsonl", "contexts.jsonl")
    )
    generator = Generator(task, lambda: plm, DECODING, FILTERS, seed, texts, contexts)
    for _ in generator.extend(n):
        pass
    return generator.rows(n)


@pytest.mark.parametrize("n", [2, 7, 12])
def test_exactly_n_rows_an_equal_share_per_label(task: TaskConfig, plm: Plm, n: int) -> None:
    rows = generated(task, plm, n)
    counts = Counter(row.label for row in rows)
    assert len(rows) == n
    assert counts["bad"] - counts["good"] in (0, 1)
    assert len({row.uid for row in rows}) == n
    assert all(row.text and row.context and row.logprob is not None and row.logprob < 0 for row in rows)


def test_rows_depend_on_the_seed_and_not_on_n(task: TaskConfig, gpt2: Plm) -> None:
    small, large, other = generated(task, gpt2, 4), generated(task, gpt2, 10), generated(task, gpt2, 4, seed=2)
    for label in task.labels:
        of_small = [row for row in small if row.label == label]
        assert of_small == [row for row in large if row.label == label][: len(of_small)]
    assert small != other


def test_a_resumed_run_equals_an_uninterrupted_one(task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    whole = generated(task, gpt2, 10, tmp_path / "whole")
    parts = tmp_path / "parts"
    generated(task, gpt2, 3, parts)
    generated(task, gpt2, 6, parts)
    for name in ("texts.jsonl", "contexts.jsonl"):  # killed while writing
        path = parts / name
        path.write_bytes(path.read_bytes()[:-7])
    assert generated(task, gpt2, 10, parts) == whole

    def without_time(folder: Path, name: str) -> list[object]:
        return [replace(chunk, seconds=0) for chunk in Journal.open(folder / name).chunks()]

    for name in ("texts.jsonl", "contexts.jsonl"):
        assert without_time(parts, name) == without_time(tmp_path / "whole", name)


def test_rows_do_not_depend_on_how_large_shards_are(task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    whole = generated(task, gpt2, 10)
    assert generated(task, gpt2, 10, tmp_path / "at-once", shard_bytes=1) == whole
    for n in (3, 6):  # stopped, and resumed with other sizes
        generated(task, gpt2, n, tmp_path / "parts", shard_bytes=1)
    assert generated(task, gpt2, 10, tmp_path / "parts") == whole
    for folder in ("at-once", "parts"):
        for name in ("texts", "contexts"):
            assert list((tmp_path / folder).glob(f"{name}-*.jsonl.zst"))


def test_as_many_contexts_are_used_as_chunks_take(task: TaskConfig, gpt2: Plm) -> None:
    for size in (1, 5, 64, 100, 1000):
        generator = Generator(task, lambda: gpt2, replace(DECODING, chunk_size=size), FILTERS, 1)
        each = len(task.labels) * generator._repeats
        counts = [max(1, chunk_size(index, size) // each) for index in range(12)]
        assert [generator.contexts_before(index) for index in range(13)] == [sum(counts[:i]) for i in range(13)]


def test_a_full_pool_needs_no_plm(task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    rows = generated(task, gpt2, 6, tmp_path)

    def refuse() -> Plm:
        raise AssertionError("the PLM was loaded")

    texts, contexts = (Journal.open(tmp_path / name) for name in ("texts.jsonl", "contexts.jsonl"))
    generator = Generator(task, refuse, DECODING, FILTERS, 1, texts, contexts)
    assert list(generator.extend(6)) == []
    assert generator.rows(6) == rows


def test_requests_are_shuffled_and_balanced(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, DECODING, FILTERS, 1)
    drafts = generator.drafts(0)
    pairs = [(draft.context, draft.label) for draft in drafts]
    assert len(pairs) == 32
    # Twice per label for every context; a context comes again where the PLM finds no new ones.
    assert all(count % 2 == 0 for count in Counter(pairs).values())
    assert all(Counter(pairs)[context, "bad"] == Counter(pairs)[context, "good"] for context, _ in pairs)
    assert pairs != sorted(pairs, key=lambda pair: pairs.index(pair))
    assert all(generator.request(draft)[0].prompt == f'A {draft.label} "{draft.context}": "' for draft in drafts)


def test_counter_prompts_are_those_of_the_other_labels(task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    task.debias.decay = 20.0
    generator = Generator(task, lambda: gpt2, DECODING, FILTERS, 1)
    other = {"bad": "good", "good": "bad"}
    for draft in generator.drafts(0):
        counters = {other[draft.label]: f'A {other[draft.label]} "{draft.context}": "'}
        assert generator.request(draft)[0].counters == counters
    rows = generated(task, gpt2, 4, tmp_path)
    assert all(list(row.counter_logprob) == [other[row.label]] for row in rows)
    write_folder(rows, task, tmp_path / "dataset")
    kept = datasets.load_from_disk(str(tmp_path / "dataset"))
    assert [row["counter_logprob"][other[row["label"]]] for row in kept] == [
        row.counter_logprob[other[row.label]] for row in rows
    ]
    assert generated(task, gpt2, 4, tmp_path) == rows
    with pytest.raises(UserError, match=r"task.debias.decay=-1: allowed is 0 \(off\) or more"):
        Generator(replace(task, debias=DebiasConfig(decay=-1)), lambda: gpt2, DECODING, FILTERS, 1)


def test_contrast_asks_with_the_counter_prompts_of_self_debiasing(task: TaskConfig, gpt2: Plm) -> None:
    for one in (task, replace(task, context=None, prompts={"bad": 'Bad: "', "good": 'Good: "'})):
        debiased, contrasted = replace(one, debias=DebiasConfig(20.0)), replace(one, contrast=ContrastConfig(2.0))
        generators = [Generator(changed, lambda: gpt2, DECODING, FILTERS, 1) for changed in (debiased, contrasted)]
        first, second = ([generator.request(draft) for draft in generator.drafts(0)] for generator in generators)
        assert first == second
        assert all(request.counters for request, _ in first)
        rows = generated(contrasted, gpt2, 6)
        assert all(row.counter_logprob for row in rows)
        assert {row.text for row in rows} != {row.text for row in generated(one, gpt2, 6)}
        off = replace(one, contrast=ContrastConfig(1.0, 0.5))
        assert generated(off, gpt2, 6) == generated(one, gpt2, 6)


@pytest.mark.parametrize(
    ("contrast", "decay", "message"),
    [
        (ContrastConfig(-0.5), 0, r"task.contrast.guidance=-0.5: allowed is 0 or more \(1 is off\)"),
        (ContrastConfig(float("nan")), 0, "task.contrast.guidance=nan: allowed is 0 or more"),
        (ContrastConfig(2.0, 1.0), 0, "task.contrast.floor=1.0: allowed is 0 <= floor < 1"),
        (ContrastConfig(2.0, -0.1), 0, "task.contrast.floor=-0.1"),
        (ContrastConfig(2.0), 20.0, "task.contrast.guidance=2.0: .*task.debias.decay=20.0; allowed with .*decay=0"),
    ],
)
def test_a_contrast_out_of_bounds_is_refused(
    task: TaskConfig, gpt2: Plm, contrast: ContrastConfig, decay: float, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Generator(replace(task, contrast=contrast, debias=DebiasConfig(decay)), lambda: gpt2, DECODING, FILTERS, 1)


@pytest.fixture
def worded(task: TaskConfig) -> TaskConfig:
    """A task with two sets of prompts, both with attributes, and with counter-prompts."""
    task.prompts = {"bad": 'A bad <A> "<C>": "', "good": 'A good <A> "<C>": "'}
    task.further_prompts = [{"bad": '"<C>" is bad, <A>: "', "good": '"<C>" is good, <A>: "'}]
    task.attributes = {"length": ["short", "long"], "tone": ["dry", "warm", "mild"]}
    task.debias.decay = 1.0
    return task


def test_texts_are_asked_for_in_every_wording(worded: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(worded, lambda: gpt2, replace(DECODING, chunk_size=256), FILTERS, 1)
    drafts = generator.drafts(2)
    other, seen = {"bad": "good", "good": "bad"}, Counter[tuple[str, bool, str]]()
    for draft in drafts:
        request, _ = generator.request(draft)
        assert request.counters == {other[draft.label]: request.prompt.replace(draft.label, other[draft.label], 1)}
        bare = request.prompt.replace(f'"{draft.context}"', "")
        last = bare.startswith(" is")
        attributes = bare.removeprefix(f" is {draft.label}, " if last else f"A {draft.label} ").removesuffix(': "')
        seen[draft.label, last, attributes.strip()] += 1
    pairs = [f"{length}, {tone}" for length in ("short", "long") for tone in ("dry", "warm", "mild")]
    assert set(seen) == {(label, last, pair) for label in other for last in (True, False) for pair in pairs}
    assert max(seen.values()) < 4 * len(drafts) / len(seen)


def test_a_wording_depends_on_the_seed_and_the_request_alone(worded: TaskConfig, gpt2: Plm) -> None:
    def prompts(seed: int, chunk_size: int) -> dict[str, str]:
        generator = Generator(
            replace(worded, context=None, prompts={"bad": "Bad <A>", "good": "Good <A>"}, further_prompts=[]),
            lambda: gpt2,
            replace(DECODING, chunk_size=chunk_size),
            FILTERS,
            seed,
        )
        return {f"{one.uid} {one.label}": generator.request(one)[0].prompt for one in generator.drafts(0)}

    assert prompts(1, 64) == prompts(1, 64)
    values = [dict(sorted(prompts(seed, 64).items())) for seed in (1, 2)]
    assert [text.split(" ", 1)[1] for text in values[0].values()] != [
        text.split(" ", 1)[1] for text in values[1].values()
    ]


def test_rows_in_several_wordings_resume(worded: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    whole = generated(worded, gpt2, 10)
    generated(worded, gpt2, 4, tmp_path)
    assert generated(worded, gpt2, 10, tmp_path) == whole


def test_every_wording_is_checked_for_room(worded: TaskConfig, gpt2: Plm) -> None:
    Generator(worded, lambda: gpt2, DECODING, FILTERS, 1).check()
    for change, key in (
        ({"further_prompts": [{"bad": "x " * 80, "good": "<C>"}]}, r"further_prompts\[0\].bad"),
        ({"attributes": {"length": ["short", "long " * 30]}}, "prompts.bad"),
    ):
        generator = Generator(replace(worded, **change), lambda: gpt2, DECODING, FILTERS, 1)
        with pytest.raises(UserError, match=rf"task 'toy': {key}: .* tokens over its budget"):
            generator.check()


def test_the_first_chunks_are_small_and_no_context_is_left_out(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, replace(DECODING, chunk_size=200), FILTERS, 1)
    asked = [generator.drafts(index) for index in range(4)]
    assert [len(drafts) for drafts in asked] == [64, 128, 200, 200]
    contexts = generator.contexts
    assert isinstance(contexts, Contexts)
    assert [head.asked[""] for head in contexts.heads][:2] == [64, 128]
    used = [dict.fromkeys(str(draft.context) for draft in drafts) for drafts in asked]
    assert [text for names in used for text in sorted(names, key=contexts.texts.index)] == contexts.texts[:148]


def test_a_task_without_contexts(task: TaskConfig, gpt2: Plm) -> None:
    plain = replace(task, context=None, prompts={"bad": 'Bad: "', "good": 'Good: "'})
    rows = generated(plain, gpt2, 4)
    assert all(row.context is None and row.text for row in rows)


def test_greedy_decoding_needs_contexts(task: TaskConfig, gpt2: Plm) -> None:
    greedy = replace(DECODING, top_k=1)
    Generator(task, lambda: gpt2, greedy, FILTERS, 1)
    with pytest.raises(UserError, match=r"decoding.top_k=1 \(greedy\): task 'toy' has no context"):
        Generator(replace(task, context=None), lambda: gpt2, greedy, FILTERS, 1)


def test_a_prompt_without_an_opening_quote_is_named(task: TaskConfig, gpt2: Plm) -> None:
    prompts = {"bad": 'Bad: "', "good": "Good: "}
    found = list(prompt_warnings(replace(task, prompts=prompts)))
    assert [doubt.split(" does")[0] for doubt in found] == ["task 'toy': prompts.good"]
    further = replace(task, further_prompts=[{"bad": 'A: "', "good": 'A: "'}])
    assert list(prompt_warnings(further)) == [
        "task 'toy': further_prompts[0].good and further_prompts[0].bad are the same: so will be their texts"
    ]
    open_ended = replace(task, prompts=prompts, parse=replace(task.parse, stop=[StopConfig("?", True)]))
    assert not list(prompt_warnings(open_ended))


def test_a_prompt_that_hardly_works_stops_with_examples(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, DECODING, FilterConfig(min_words=500, patience=128), 1)
    with pytest.raises(UserError, match=r"prompts.bad: 0 of the last 128 texts .* rejected were \w+: '"):
        list(generator.extend(4))
    assert len(generator.journal.heads) == 8


def test_a_label_that_has_its_rows_does_not_stop_the_others(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, DECODING, replace(FILTERS, min_acceptance=0.01), 1)
    for _ in generator.extend(8):
        pass
    idle = [
        replace(chunk, rows=[row for row in chunk.rows if row.label == "good"]) for chunk in generator.journal.chunks()
    ]
    for place in range(20):
        generator.journal.append(replace(idle[0], index=len(idle) + place))
    generator._check_acceptance(["good"])
    with pytest.raises(UserError, match="prompts.bad: 0 of the last"):
        generator._check_acceptance(["bad", "good"])


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_written(task: TaskConfig, gpt2: Plm) -> None:
    assert task.context is not None
    long = replace(task, context=replace(task.context, max_new_tokens=125))
    generator = Generator(long, lambda: gpt2, DECODING, FILTERS, 1)
    with pytest.raises(UserError, match=r"context.prompt: its \d+ tokens and .*=125 exceed the 128 positions"):
        list(generator.extend(4))
    with pytest.raises(UserError, match="prompts.bad"):
        list(Generator(replace(task, max_new_tokens=125), lambda: gpt2, DECODING, FILTERS, 1).extend(4))


def test_rejects_and_accepted_add_up_to_requests(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, DECODING, FILTERS, 1)
    for chunk in generator.extend(8):
        for label in task.labels:
            assert chunk.accepted()[label] + sum(chunk.rejects[label].values()) == chunk.asked[label] == 16


def test_contexts_are_unique_until_there_are_no_new_ones(task: TaskConfig, gpt2: Plm) -> None:
    generator = Generator(task, lambda: gpt2, DECODING, FilterConfig(min_words=1, patience=128, min_acceptance=0.99), 1)
    contexts = generator.contexts
    assert isinstance(contexts, Contexts)
    found = contexts.take(0, 1000, Progress())
    unique = len(contexts.texts)
    assert found[:unique] == contexts.texts
    assert sorted(found[unique : 2 * unique]) == sorted(contexts.texts)


CONTEXTS = [f"{name} lives in {place}." for name in ("Ann", "Bob", "Eve") for place in ("Rome", "Oslo", "Lima")]


@pytest.fixture
def pair_task(tmp_path: Path) -> TaskConfig:
    (tmp_path / "c.txt").write_text("\n".join(CONTEXTS))
    return TaskConfig(
        name="pairs",
        kind="pair",
        labels=["yes", "no"],
        prompts={"yes": '"<C>" Yes: "', "no": '"<C>" No: "'},
        context=ContextConfig(source=str(tmp_path / "c.txt"), per_label=2),
        parse=ParseConfig([StopConfig("e"), StopConfig("i"), StopConfig(" ")]),  # soon
        max_new_tokens=24,
        min_words=1,
    )


@pytest.fixture
def question_task(pair_task: TaskConfig) -> TaskConfig:
    return replace(
        pair_task,
        kind="qa",
        labels=["question"],
        prompts={"question": '"<C>" "<Y>" answers: "'},
        answers="rules",
    )


def test_texts_are_written_about_given_contexts(pair_task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    rows = generated(pair_task, gpt2, 12, tmp_path)
    assert Counter(row.label for row in rows) == {"yes": 6, "no": 6}
    assert {row.context for row in rows} <= set(CONTEXTS)
    assert len({row.context for row in rows}) > 3
    assert [row for row in generated(pair_task, gpt2, 20, tmp_path) if row.label == "yes"][:6] == [
        row for row in rows if row.label == "yes"
    ]
    assert generated(pair_task, gpt2, 12, seed=2) != rows


def test_questions_are_written_about_answers(question_task: TaskConfig, gpt2: Plm, tmp_path: Path) -> None:
    generator = Generator(question_task, lambda: gpt2, DECODING, FILTERS, 1)
    drafts = generator.drafts(0)
    assert len(drafts) == 32
    for draft in drafts:
        (answer,) = draft.answers
        assert draft.context is not None
        assert draft.context[answer.start :].startswith(answer.text)
        assert generator.request(draft)[0].prompt == f'"{draft.context}" "{answer.text}" answers: "'
    assert all(count % 2 == 0 for count in Counter((draft.context, draft.answers) for draft in drafts).values())
    rows = generated(question_task, gpt2, 10, tmp_path)
    assert len({row.uid for row in rows}) == 10
    assert generated(question_task, gpt2, 10, tmp_path) == rows  # as read back
    write_folder(rows, question_task, tmp_path / "dataset")
    kept = datasets.load_from_disk(str(tmp_path / "dataset")).to_list()
    assert list(kept[0]) == ["id", "title", "context", "question", "answers", "logprob"]
    for row, other in zip(rows, kept, strict=True):
        assert (row.uid, row.text, row.context) == (other["id"], other["question"], other["context"])
        start = other["answers"]["answer_start"][0]
        assert other["context"][start:].startswith(other["answers"]["text"][0])
    read = load_synthetic(str(tmp_path / "dataset"), question_task, {})
    assert read == rows


def test_long_contexts_are_cut_around_the_answer_and_said(question_task: TaskConfig, gpt2: Plm) -> None:
    long = "x y z " * 30 + "Rome" + " u v w" * 30  # gpt2 has 128 positions
    assert question_task.context is not None
    Path(question_task.context.source).write_text(long)
    generator = Generator(question_task, lambda: gpt2, DECODING, FILTERS, 1)
    request, cut = generator.request(generator.drafts(0)[0])
    prompt = request.prompt
    assert cut
    assert "Rome" in prompt.split('" "Rome"')[0]
    assert len(gpt2.encode(prompt)) <= 128 - 24
    assert prompt.endswith('" "Rome" answers: "')
    generator = Generator(question_task, lambda: gpt2, DECODING, replace(FILTERS, min_acceptance=0.9), 1)
    with pytest.raises(UserError):  # one context, one answer: there are soon no new questions
        list(generator.extend(50))
    assert all(head.cut == sum(head.asked.values()) for head in generator.journal.heads)


def test_counter_prompts_hold_the_same_part_of_a_long_context(pair_task: TaskConfig, gpt2: Plm) -> None:
    pair_task.debias.decay = 100
    pair_task.prompts["no"] = pair_task.prompts["no"].replace('"<C>"', 'To be short "<C>"')
    generator = Generator(pair_task, lambda: gpt2, DECODING, FILTERS, 1)
    for label in pair_task.labels:
        request, cut = generator.request(Example("1", "", label, "some words " * 80))
        assert cut
        assert len({prompt.split('"')[1] for prompt in [request.prompt, *request.counters.values()]}) == 1
