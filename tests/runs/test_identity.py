"""Names of pools and run folders: what they depend on, and that those of version 0.1 go on being used."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from zerogen.config.bundled import bundled_option, load_task
from zerogen.config.schema import Config, DecodingConfig, PlmConfig, SettingConfig, TamConfig, TrainerConfig
from zerogen.config.task import override
from zerogen.runs.identity import changes, pool_key
from zerogen.runs.migration import former_pool_key, former_run_key
from zerogen.runs.run import Run
from zerogen.support.hashes import short_hash

CPU = torch.device("cpu")


def config(task: str, setting: str, tam: str = "distilbert") -> Config:
    """Compose bundled options, with arithmetic that does not depend on the processor."""
    options = [bundled_option(group, name, schema) for group, name, schema in (
        ("plm", "gpt2", PlmConfig), ("tam", tam, TamConfig), ("trainer", tam, TrainerConfig)
    )]  # fmt: skip
    plm, model, trainer = options
    assert isinstance(plm, PlmConfig) and isinstance(model, TamConfig) and isinstance(trainer, TrainerConfig)
    plm.dtype = model.dtype = "float32"
    return Config(task=load_task(task), setting=SettingConfig(name=setting), plm=plm, tam=model, trainer=trainer)


def text_scope() -> Config:
    found = config("sst2", "prompting")
    found.setting.scope = "text"
    return found


def some_gold() -> Config:
    found = config("imdb", "supervised", "lstm")
    found.limit = 100
    return found


def debiased() -> Config:
    found = config("qnli", "zerogen")
    override(found.task, None, None, None, pairs="plm")
    found.pairs, found.method = "plm", "zerogen"
    found.task.debias.decay, found.eval_limit, found.decoding.top_k = 50.0, 10, 40
    return found


def questions() -> Config:
    found = config("squad", "zerogen", "lstm")
    override(found.task, None, "gold", "gold", questions="plm")
    found.contexts, found.answers, found.filter.min_words, found.seed = "gold", "gold", 3, 7
    found.questions = "plm"
    return found


def generated_only() -> Config:
    found = config("sst2", "zerogen")
    found.train = False
    return found


# As version 0.1 named them.
@pytest.mark.parametrize(
    ("made", "pool", "folder"),
    [
        (lambda: config("sst2", "zerogen"), "pool_gpt2_584a73a0", "zerogen_gpt2_distilbert_e35b5003"),
        (text_scope, "pool_gpt2_584a73a0", "prompting_gpt2_none_846dd1ae"),
        (some_gold, "pool_gpt2_c8cb6de1", "supervised_none_lstm_581ec387"),
        (debiased, "pool_gpt2_0013e6b6", "zerogen_gpt2_distilbert_36cc9f2d"),
        (questions, "pool_gpt2_9079c01a", "zerogen_gpt2_lstm_5eeee51e"),
        (generated_only, "pool_gpt2_584a73a0", "zerogen_gpt2_none_6e3db7d2"),
    ],
)
def test_folders_of_version_0_1_go_on_being_used(
    made: Callable[[], Config], pool: str, folder: str, tmp_path: Path
) -> None:
    asked = made()
    asked.output_dir = str(tmp_path)
    run = Run(asked, [CPU])
    new_pool, new_folder = run.pool_folder(), run.folder()
    assert new_pool.name != pool and new_folder.name != folder
    (run.task_folder / pool).mkdir(parents=True)
    (run.task_folder / folder).mkdir()
    assert (run.pool_folder().name, run.folder().name) == (pool, folder)
    new_pool.mkdir()
    new_folder.mkdir()
    assert (run.pool_folder(), run.folder()) == (new_pool, new_folder)


def test_how_texts_are_asked_for_names_the_pool() -> None:
    tasks = [config("sst2", "zerogen") for _ in range(6)]
    plain, contrasted, floored, further, worded, reordered = (one.task for one in tasks)
    contrasted.contrast.guidance = 1.5
    floored.contrast.guidance, floored.contrast.floor = 1.5, 0.1
    further.further_prompts = [dict(further.prompts)]
    worded.attributes = {"length": ["short", "long"], "tone": ["dry", "warm"]}
    reordered.attributes = dict(reversed(worded.attributes.items()))
    assert not {"contrast", "further_prompts", "attributes"} & set(pool_key(tasks[0], CPU)["task"])
    assert len({short_hash(pool_key(one, CPU)) for one in tasks}) == len(tasks)
    assert [former_pool_key(one, CPU) is None for one in tasks] == [False, *[True] * 5]
    assert plain.contrast.guidance == 1


def test_what_sets_a_later_key_is_in_no_folder_of_version_0_1() -> None:
    @dataclass
    class LaterDecoding(DecodingConfig):
        guidance: float = 1.0

    @dataclass
    class LaterTrainer(TrainerConfig):
        later: str = "off"

    LaterDecoding.__name__, LaterTrainer.__name__ = "DecodingConfig", "TrainerConfig"
    before = config("sst2", "zerogen")
    asked = config("sst2", "zerogen")
    asked.decoding, asked.trainer = LaterDecoding(), LaterTrainer(**vars(asked.trainer))
    assert pool_key(asked, CPU) == pool_key(before, CPU)
    assert former_run_key(asked, CPU) == former_run_key(before, CPU)
    asked.trainer.later = "on"
    assert former_run_key(asked, CPU) is None
    assert former_pool_key(asked, CPU) == former_pool_key(before, CPU)
    asked.decoding.guidance = 1.5
    assert former_pool_key(asked, CPU) is None
    assert pool_key(asked, CPU) != pool_key(before, CPU)


def test_prompts_for_a_chat_count_in_a_chat_alone() -> None:
    for chat in ("auto", True):
        asked, plain = config("rotten_tomatoes", "zerogen"), config("rotten_tomatoes", "zerogen")
        asked.plm.chat = plain.plm.chat = chat
        assert plain.task.context is not None and plain.task.context.prompt_chat
        plain.task.prompts_chat, plain.task.context.prompt_chat = {}, ""
        assert (pool_key(asked, CPU) == pool_key(plain, CPU)) == (chat == "auto")
        assert former_pool_key(asked, CPU) == former_pool_key(plain, CPU)
        assert (former_pool_key(asked, CPU) is None) == (chat is True)


def test_only_what_differs_from_the_default_counts() -> None:
    @dataclass
    class Inner:
        a: int = 1
        b: list[int] = field(default_factory=list)

    @dataclass
    class Outer:
        name: str = "x"
        inner: Inner = field(default_factory=Inner)
        many: list[Inner] = field(default_factory=lambda: [Inner()])
        maybe: Inner | None = None

    assert changes(Outer()) == {}
    assert changes(Outer(inner=Inner(b=[2]), maybe=Inner())) == {"inner": {"b": [2]}, "maybe": {}}
    assert changes(Outer(many=[Inner(), Inner(3)])) == {"many": [{}, {"a": 3}]}
    assert changes(Outer("y", Inner(2)), ("name",)) == {"name": "y"}


def test_names_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(config("sst2", "zerogen", "lstm"), [CPU])
    before = run.folder()
    (tmp_path / "file").write_text("more")
    assert run.folder() == before


def test_a_shifted_model_is_in_no_folder_of_version_0_1(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one text\n")
    plain = config("sst2", "zerogen")
    plain.unlabelled = str(tmp_path / "texts.txt")
    assert former_run_key(plain, CPU) is not None  # rows are only compared with the texts
    plain.setting.calibration = "priors"
    assert former_run_key(plain, CPU) is None
