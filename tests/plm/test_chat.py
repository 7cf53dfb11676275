"""How prompts become turns of a chat."""

from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import byte_tokenizer, causal_model, toy_rows
from zerogen.config.bundled import load_task
from zerogen.config.schema import DecodingConfig, PlmConfig
from zerogen.data.records import Request, Stop
from zerogen.errors import UserError
from zerogen.plm.chat import PLAIN, Frame, chat_frame, context_prompt, filled, in_chat
from zerogen.plm.model import Plm
from zerogen.plm.pretrained import tokenizer_frame
from zerogen.plm.prompting import prompt_labels

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML


class Asked:
    """A PLM of which only the frame is needed."""

    frame = Frame("[user]", "[answer]", chat=True)


@pytest.mark.parametrize(
    ("template", "text", "user", "answer"),
    [
        ('The review in negative sentiment is: "', None, "The review in negative sentiment is:", '"'),
        ("Question:", None, "Question:", ""),
        ('The review in negative sentiment is: "<X>"', "X", "The review in negative sentiment is:", '"TEXT"'),
        ("<X> All in all, it was bad.", "X", "TEXT", "All in all, it was bad."),
        ('Review: "<X>"\nSentiment: bad', "X", 'Review: "TEXT"', "Sentiment: bad"),
        ('Passage: "<C>"\n"<Y>" answers: "', None, 'Passage: "PASSAGE"\n"ANSWER" answers:', '"'),
        ('Passage: "<C>"\nAnswer to "<X>": "<Y>', "Y", 'Passage: "PASSAGE"\nAnswer to "TEXT":', '"ANSWER'),
    ],
)
def test_an_answer_begins_with_the_quote_that_stands_open(
    template: str, text: str | None, user: str, answer: str
) -> None:
    values = {"C": "PASSAGE", "X": "TEXT", "Y": "ANSWER"}
    prompt, begin = filled(Asked(), template, values, text)
    assert prompt == f"[user]{user}[answer]{answer}"
    assert prompt[begin:] == answer


def test_without_a_chat_a_prompt_stays_as_it_is() -> None:
    prompt, begin = filled(object(), 'It is: "<X>"', {"X": " a <X> "}, "X", before="Before. ")
    assert (prompt, prompt[begin:]) == ('Before. It is: " a <X> "', 'It is: " a <X> "')


@pytest.mark.parametrize("name", ["rotten_tomatoes", "qnli", "rte", "mnli", "squad", "ag_news", "imdb", "sst2"])
def test_in_every_bundled_task_the_answer_holds_the_text_alone(name: str) -> None:
    task = load_task(name)
    values = {"C": "PASSAGE", "X": "TEXT", "Y": "ANSWER", "A": "short"}
    for label in task.labels:
        prompt, begin = filled(Asked(), task.prompts[label], values, None)
        assert prompt[begin:] == '"', prompt
        for prompts in (task.scoring, *task.further_scoring) if task.kind != "qa" else ():
            prompt, begin = filled(Asked(), prompts[label], values, "X")
            assert prompt[begin:].startswith('"TEXT"') or "TEXT" in prompt[:begin], prompt
            assert prompt[begin:].strip(), prompt


def rendering(template: str) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_the_frame_is_what_the_template_puts_around_a_users_turn() -> None:
    assert tokenizer_frame(rendering(CHATML), PlmConfig("p", "m", chat=True)) == Frame(
        "<|user|>", "<|end|><|assistant|>", chat=True
    )
    assert tokenizer_frame(rendering(CHATML), PlmConfig("p", "m")) is PLAIN


def test_a_system_text_has_a_turn_or_begins_the_users() -> None:
    config = PlmConfig("p", "m", chat=True, system="Be brief.")
    assert tokenizer_frame(rendering(CHATML), config).before == "<|system|>Be brief.<|end|><|user|>"
    assert tokenizer_frame(rendering(NO_SYSTEM), config).before == "<|user|>Be brief.\n\n"


def test_a_plm_without_a_template_is_refused_in_a_chat() -> None:
    with pytest.raises(UserError, match="plm.chat=true: plm.model=m has no chat template"):
        tokenizer_frame(byte_tokenizer(), PlmConfig("p", "m", chat=True))
    assert chat_frame(lambda turns: "nothing of it", None) is None


def test_prompts_for_a_chat_stand_in_for_all_others_there_alone() -> None:
    task = load_task("rotten_tomatoes")
    assert in_chat(task, object()) is task
    asked = in_chat(task, Asked())
    assert list(asked.prompts) == task.labels and not asked.further_prompts
    for prompt in asked.prompts.values():
        text, begin = filled(Asked(), prompt, {"C": "Titanic"}, None)
        assert text[begin:] == '"' and "Titanic" in text[:begin]


def test_a_context_is_asked_for_in_words_for_a_chat_there_alone() -> None:
    context = load_task("rotten_tomatoes").context
    assert context is not None and context_prompt(context, object()) == context.prompt
    text, begin = filled(Asked(), context_prompt(context, Asked()), {}, None)
    assert text[begin:] == '"' and context.prompt_chat in text[:begin]
    bare = replace(context, prompt_chat="")
    assert context_prompt(bare, Asked()) == context.prompt


@pytest.fixture(scope="module")
def chatting() -> Plm:
    tokenizer = rendering(CHATML)
    return Plm(causal_model("llama"), tokenizer, "tiny", tokenizer_frame(tokenizer, PlmConfig("p", "m", chat=True)))


def test_a_chat_is_the_same_text_put_to_the_plm_by_hand(chatting: Plm) -> None:
    plain = Plm(chatting.network.model, chatting.tokenizer, "tiny")
    prompt, _ = filled(chatting, 'A review: "', {}, None)
    decoding, stops = DecodingConfig(), [Stop('"')]
    own = chatting.generate([Request("0", prompt)], decoding, stops, 12, seed=3)
    by_hand = plain.generate([Request("0", prompt)], decoding, stops, 12, seed=3)
    assert own[0].text == by_hand[0].text
    assert dict(chatting.logprob([prompt])) == dict(plain.logprob([prompt]))
    assert chatting.max_positions == plain.max_positions - len(plain.encode(chatting.frame.wrap("", "")))


def test_only_the_answer_counts_in_a_chat(chatting: Plm) -> None:
    task, rows = load_task("rotten_tomatoes"), toy_rows(2)
    found, _ = prompt_labels(chatting, task, rows)
    for row, prediction in zip(rows, found, strict=True):
        prompts = [filled(chatting, task.scoring[label], {"X": row.text, "C": ""}, "X") for label in task.labels]
        scores = dict(chatting.logprob([text for text, _ in prompts], begins=[begin for _, begin in prompts]))
        assert prediction.label == task.labels[max(scores, key=scores.__getitem__)]
