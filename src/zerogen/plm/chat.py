"""How a prompt is put to a PLM: as it is, or as a turn of the user in a chat whose answer has been begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zerogen.config.task_schema import ContextConfig, TaskConfig
from zerogen.config.template import render

_OPENING, _CLOSING = "\"'`“„«‘‚([{<", "\"'`”“»’)]}>"
_MARK = "ZEROGENUSERTURN"
# A template may write the day's date, or let the PLM think aloud first.
CONSTANTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class Frame:
    """What stands around the user's turn: a text begins after `suffix`.

    before, suffix: of a chat template, special tokens included. chat: whether it is one; else a prompt stays as it is.
    """

    before: str = ""
    suffix: str = ""
    chat: bool = False

    def wrap(self, user: str, answer: str) -> str:
        """Return the whole prompt: what the user says, and the beginning of the answer."""
        return f"{self.before}{user.rstrip()}{self.suffix}{answer}" if self.chat else user + answer


PLAIN = Frame()
# For a server that keeps its template to itself: the turns of a chat as they are, to be taken apart again.
TURNS = Frame("", "\n<|answer|>\n", chat=True)


def frame_of(plm: object) -> Frame:
    """Return how prompts are put to a PLM; a writer of the user's own that does not say takes them as they are."""
    frame: Frame = getattr(plm, "frame", PLAIN)
    return frame


def messages(user: str, system: str | None) -> list[dict[str, str]]:
    """Return the turns of a chat up to the answer."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": user}]


def chat_frame(render: Any, system: str | None) -> Frame | None:
    """Return the frame of a chat template; None where it does not show a user's turn as it is.

    render: returns the text of messages with the beginning of an answer, or raises ValueError, as for a system's turn
    in a template that knows none: then its text begins the user's turn.
    """
    for turns, more in ((messages(_MARK, system), ""), (messages(_MARK, None), f"{system}\n\n" if system else "")):
        try:
            before, mark, suffix = render(turns).partition(_MARK)
        except ValueError:
            continue
        if mark and (more or not system or system in before):
            return Frame(before + more, suffix, chat=True)
    return None


def filled(
    plm: object, template: str, values: Mapping[str, str], text: str | None, before: str = ""
) -> tuple[str, int]:
    """Fill a prompt and put it as the PLM's frame has it; return it, and the character at which the answer begins.

    text: the placeholder of the text that the answer holds, None where that is still to be written. before: what stands
    before the prompt, such as demonstrations. Without a chat all that follows `before` is the answer.
    """
    frame = frame_of(plm)
    user, answer = _turns(template, text) if frame.chat else ("", template)
    told = render(answer, values)
    prompt = frame.wrap(before + render(user, values), told)
    return prompt, len(prompt) - len(told)


def in_chat(task: TaskConfig, plm: object) -> TaskConfig:
    """Return a task with the prompts that it has for a chat, if it has any and the PLM is asked in one."""
    if not frame_of(plm).chat or not task.prompts_chat:
        return task
    quote = '"' if any(stop.text == '"' for stop in task.parse.stop) else ""
    prompts = {label: _asking(turn, quote) for label, turn in task.prompts_chat.items()}
    return replace(task, prompts=prompts, further_prompts=[])


def context_prompt(context: ContextConfig, plm: object) -> str:
    """Return the prompt of stage 1: that for a chat, if there is one and the PLM is asked in one."""
    chats = frame_of(plm).chat and context.prompt_chat
    return _asking(context.prompt_chat, '"') if chats else context.prompt


def _asking(turn: str, quote: str) -> str:
    """Return a user's turn as a prompt: the answer begins with the quote, if there is one."""
    return f"{turn.rstrip(_OPENING + ' ')} {quote}"


def _turns(template: str, text: str | None) -> tuple[str, str]:
    """Split a prompt into the user's turn and the answer: from the quote on that stands open at its end.

    With a text, from the quote on that opens the text; where something is said of the text, such as in `<X> All in all,
    it was bad.`, what follows the text.
    """
    before, mark, after = template.partition(f"<{text}>")
    if not mark:
        before, after = template, ""
    elif (said := after.lstrip(_CLOSING)).strip():
        return template[: len(template) - len(said)], said.lstrip()
    user = before.rstrip(_OPENING)
    return user, before[len(user) :] + mark + after
