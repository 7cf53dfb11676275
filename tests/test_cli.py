"""The command line: one line and exit code 2 for wrong input, and nothing written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from zerogen import cli
from zerogen.config.bundled import conf_dir
from zerogen.config.keys import help_of
from zerogen.config.schema import Config, TrainerConfig
from zerogen.errors import Unavailable, UserError
from zerogen.plm.open import open_plm

SPAM = """
name: spam
labels: [ham, spam]
prompts: {ham: 'A friend wrote: "', spam: 'An advertiser wrote: "'}
scoring: {ham: 'A friend wrote: "<X>"', spam: 'An advertiser wrote: "<X>"'}
"""
ASK = """
name: ask
kind: qa
context: {source: data/none.txt}
prompts: {question: '"<C>" "<Y>" answers: "'}
"""
PAIR = '{"question": "Why?", "sentence": "So it is.", "label": 0}\n'
EMPTY = PAIR.replace("So it is.", " ")
ASKED = '{"id": "1", "question": "Who?", "context": "Ann.", "answers": {"text": ["Ann"], "answer_start": [0]}}\n'


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["zerogen", *arguments])
    monkeypatch.setattr("zerogen.support.process.stop_on_signals", lambda: None)  # pytest keeps its own handler
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "spam.yaml").write_text(SPAM)
    (tmp_path / "conf" / "task" / "ask.yaml").write_text(ASK)
    (tmp_path / "conf" / "task" / "old.yml").write_text(SPAM)
    (tmp_path / "conf" / "task" / "checked.yaml").write_text(SPAM + "gold: {own: {files: {validation: v.csv}}}\n")
    (tmp_path / "conf" / "task" / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "conf" / "task" / "single.yaml").write_text("name: single\nlabels: spam\n")
    for place in ("data/qnli", "data/squad", "twice/qnli", "blank/qnli"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("train.jsonl", "validation.jsonl"):
            (tmp_path / place / name).write_text(ASKED if "squad" in place else EMPTY if "blank" in place else PAIR)
    (tmp_path / "twice" / "qnli" / "train.csv").write_text(PAIR)
    (tmp_path / "data" / "none.txt").write_text("so it goes on and on\n")
    (tmp_path / "data" / "c.jsonl").write_text('{"sentence": "A text."}\n{"sentence": null}\n')
    (tmp_path / "data" / "d.jsonl").write_text('{"sentence": "A text."}\n{"sentense": "Another."}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=sst"], "task=sst: is unknown; allowed: .*imdb, .*sst2; did you mean 'sst2'"),
        (["setting=zerogn"], "did you mean 'zerogen'"),
        (["plm=smolm2"], "did you mean 'smollm2'"),
        (["tam=minilmm"], "did you mean 'minilm'"),
        (["decodng.top_p=1"], "decodng: is not a key; allowed here: .*did you mean 'decoding'"),
        (["decoding.topp=1"], "decoding.topp: is not a key; allowed here: top_p, .*did you mean 'top_p'"),
        (["++decoding.topp=1"], "decoding.topp: is not a key"),
        (["+foo=1"], "foo: is not a key"),
        (["decoding.top_p=0"], "decoding.top_p=0: allowed is 0 < top_p <= 1"),
        (["decoding.top_p=1.1"], "decoding.top_p=1.1"),
        (["n=many"], "n=many: allowed is a whole number"),
        (["trainer.lr=high"], "trainer.lr=high: allowed is a number"),
        (["train=maybe"], "train=maybe: allowed is true or false"),
        (["task=rotten_tomatoes", "task.prompts=text"],
         "task.prompts=text: allowed is values by their names: task.prompts={NAME: VALUE}"),
        (["--config-dir", "conf", "task=single"], "task.labels of task=single: allowed is a list: task.labels="),
        (["seeds=1"], r"seeds=1: allowed is a list: seeds=\[1\]"),
        (["--config-dir=confi"], "--config-dir=confi: there is no such folder; did you mean 'conf'"),
        (["n=1"], "n=1: allowed is 2 or more, the number of labels of task 'sst2'"),
        (["n=1,2"], "Ambiguous value for argument 'n=1,2'; a list is written key="),
        (["-m", "n=100,1"], "n=1: allowed is 2 or more"),
        (["-m", "task=sst2,nope"], "task=nope: is unknown"),
        (["log_every=0"], "log_every=0"),
        (["limit=1"], "limit=1"),
        (["seeds=[1,1]"], "allowed is a list of different integers"),
        (["gpu=first"], "gpu=first: allowed is auto, none, an index"),
        (["gpu=true"], "gpu=True: allowed is auto, none, an index"),
        (["tam.dropout=3"], "tam.dropout=3.0: allowed is 0 <= dropout < 1"),
        (["task.name=a/b"], "task.name=a/b: allowed are letters"),
        (["task.name=.."], r"task.name=\.\.: allowed are letters"),
        (["task.name=" + "n" * 97], "allowed are letters, digits, .* 96 bytes in all"),
        (["plm.name=" + "n" * 97], "allowed are letters, digits, .* 96 bytes in all"),
        (["task=rotten_tomatoes", "task.labels=[negative,' ']"], "labels=.'negative', ' '.: ' ' is blank"),
        (["task=conf/task/spam.yaml"], "not a path; a file of your own is used with --config-dir conf task=spam$"),
        (["task=spam.yaml"], "--config-dir FOLDER task=spam, with the file as FOLDER/task/spam.yaml"),
        (["--config-dir", "conf", "task=old"], "conf/task/old.yml must end in .yaml; rename it to conf/task/old.yaml"),
        (["--config-dir", "conf", "task=latin"], "conf/task/latin.yaml: not UTF-8 text"),
        (["--config-dir", "conf", "task=checked", "task.gold.own.labels={0: ham}"],
         r"put a \+ before it: \+task.gold.own.labels={0: ham}$"),
        (["--config-dir", "conf", "task=spam", 'output_dir="~nobody-there/x"'], "there is no such user"),
        (["task=rotten_tomatoes", "setting=prompting", "plm.model=a.b/c.gguf"], "a.b/c.gguf: there is no such file"),
        (["task.gold.hub.hub.token=x"], "token"),
        (["setting=supervised", "task=rotten_tomatoes", "task.gold.package.evaluate_on=train"], "names the rows"),
        (["task=rotten_tomatoes", "plm=smollm2"], "tam.model=.*could not be loaded.*tam=minilm"),
        (["task=rotten_tomatoes", "plm=gpt2", "tam=minilm"], "plm.model=.*could not be loaded.*plm=smollm2"),
        (["gpu=[0,0]"], r"gpu=\[0, 0\]: allowed is auto, none, an index"),
        (["processes=0"], "processes=0: allowed is 1 or more"),
        (["gpu=[0,99]", "task=rotten_tomatoes"], r"gpu=\[0, 99\]: there is no such GPU"),
        (["gpu=99", "task=rotten_tomatoes"], "gpu=99: there is no such GPU"),
        (["task.prompts.positive='by <Q>'"], "prompts.positive: placeholder: '<Q>' is unknown; allowed: <A>, <C>"),
        (["task.prompts.positive=<Q"], "is not a valid override|placeholder"),
        (["task.gold_source=hup"], "gold_source: 'hup' is unknown; allowed: hub; did you mean 'hub'"),
        (["train=false", "setting=supervised"], "train=false: nothing would be done"),
        (["tam.checkpoint=x"], "tam.checkpoint=x: is evaluated only"),
        (["dataset=x.jsonl", "setting=supervised"], "dataset=x.jsonl"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=[]"], r"dataset=\[\]: allowed is a file or folder, or a list"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=[1]"], r"dataset=\[1\]: allowed is a file or folder"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=[a.jsonl,a.jsonl]"], r"dataset=\[a.jsonl,a.jsonl\]: allowed"),
        (["task=rotten_tomatoes", "tam=minilm", 'dataset=["~nobody-there/x"]'], "there is no such user"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=5"], "dataset=5: allowed is a file or folder, or a list"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=[no.jsonl]"], "no.jsonl: there is no such file"),
        (["task=rotten_tomatoes", "tam=minilm", "dataset=no.jsonl"], "no.jsonl: there is no such file"),
        (["task=rotten_tomatoes", "setting=prompting", "plm=gpt2"], "plm.model=.*could not be loaded.*plm=smollm2"),
        (["task=rotten_tomatoes", "setting=prompting", "plm.model=./none"], "./none: there is no such folder"),
        (["task=rotten_tomatoes", "setting=prompting", "plm.model=package:nope"], "'nope' is not installed"),
        (["task=rotten_tomatoes", "setting=supervised", "limit=40"], "tam.model=.*could not be loaded.*tam=minilm"),
        (["setting=supervised", "task=sst2"], "gold data of task 'sst2': Hub dataset 'SetFit/sst2'"),
        (["--config-dir", "conf", "task=spam", "setting=supervised"], "task 'spam' has no gold data"),
        (["--config-dir", "conf", "task=spam", "train=false", "tam.checkpoint=x"], "task 'spam' has no gold data"),
        (["--config-dir", "nowhere", "task=spam"], "--config-dir=nowhere: there is no such folder"),
        (["task=imdb", "setting=supervised", "limit=10", "task.gold_source=package", "tam=minilm",
          "trainer.lr=0"], "trainer.lr=0"),
        (["task=qnli", "data_dir=nowhere"], "data_dir=nowhere: there is no folder nowhere/qnli"),
        (["task=qnli", "contexts=golden"], "contexts=golden: there is no such file; allowed are .*did you mean 'gold'"),
        (["task=qnli", "data_dir=data", "task.gold_source=hup"], "gold_source: 'hup' is unknown; .*did you mean 'hub'"),
        (["task=qnli", "data_dir=twice"], "twice/qnli/train.jsonl and twice/qnli/train.csv are both there; keep one"),
        (["--config-dir", "conf", "task=spam", "data_dir=data"], "data_dir=data: task 'spam' has no gold source"),
        (["task=squad", "contexts=plm", "task.context.prompt=A"], "context.source=plm: question answering needs given"),
        (["task=squad", "task.max_length=15"], "max_length=15: allowed is 16 or more for kind qa"),
        (["task=qnli", "task.max_length=7"], "max_length=7: allowed is 8 or more for kind pair"),
        (["task=squad", "data_dir=data", "contexts=data/none.txt", "answers=rules", "plm=smollm2", "tam=minilm"],
         "answers: none was found in 1 contexts"),
        (["task=qnli", "data_dir=data", "contexts=data/c.jsonl", "plm=smollm2", "tam=minilm"],
         "c.jsonl: row 2: column 'sentence': None is not a text"),
        (["task=qnli", "data_dir=data", "contexts=data/d.jsonl", "plm=smollm2", "tam=minilm"],
         "d.jsonl: row 2: no column 'sentence'; .*did you mean 'sentense'"),
        (["task=qnli", "data_dir=blank", "plm=smollm2", "tam=minilm"],
         "the validation split of its gold data has no row left after gold.where; 1 rows have no text"),
        (["task=sst2", "answers=rules"], "answers=rules: task 'sst2' is not about question answering"),
        (["task=squad", "answers=rule"], "answers: 'rule' is unknown; .*did you mean 'rules'"),
        (["task=squad", "task.labels=[a,b]"], "labels=.'a', 'b'.: question answering has none"),
        (["task=squad", "task.debias.decay=10"], "debias.decay=10.0: needs labels"),
        (["task=squad", "task.contrast.guidance=2"], "contrast.guidance=2.0: needs labels"),
        (["task=qnli", "task.contrast.guidance=2"], "contrast.guidance=2.0: .*task.debias.decay=200.0; allowed with"),
        (["task=squad", "task.further_prompts=[{question: '<C> <Y>'}]"], "further_prompts: allowed are"),
        (["task=qnli", "task.order=[text]"], "order=.'text'.: allowed is .context, text. or .text, context."),
        (["task=qnli", "task.gold.hub.context=null", "contexts=plm", "task.context.prompt=A"], "hub.context has no"),
        (["task=qnli", "task.prompts.entailment='no place'"], "prompts.entailment: 'no place' must hold <C>"),
        (["task=squad", "task.prompts.question='<C>'"], "prompts.question: '<C>' must hold <Y>"),
        (["task=qnli", "task.kind=pairs"], "kind: 'pairs' is unknown; .*did you mean 'pair'"),
        (["--config-dir", "conf", "task=spam", "contexts=gold"], "contexts=gold: task 'spam' has no context"),
        (["task=qnli", "setting=prompting", "setting.scope=texts"], "setting.scope: 'texts' is unknown.*did you mean"),
        (["task=qnli", "setting=prompting", "setting.calibration=on"], "setting.calibration"),
        (["tam=lstm", "task=rotten_tomatoes", "plm=smollm2", "tam.vectors=glove.txt"], "tam.vectors=glove.txt: there"),
        (["tam=minilm", "task=rotten_tomatoes", "plm=smollm2", "tam.vectors=glove.txt"], "an encoder has its own"),
        (["task=squad", "data_dir=data", "task.context.source=data/non.txt", "plm=smollm2", "tam=minilm"],
         "context.source=data/non.txt: there is no such file; .*did you mean 'none.txt'"),
        (["--config-dir", "conf", "task=ask", "answers=gold", "plm=smollm2", "tam=minilm"],
         "answers=gold: task 'ask' has no gold data"),
        (["trainer.ema=1"], "trainer.ema=1.0: allowed is 0 < ema < 1, or null"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["--config-dir", "conf", "task=spam", "task.context.per_label=2"], "task.context.per_label=2: sets a key"),
        (["--config-dir", "conf", "task=spam", "dataset_labels=[ham]"], "dataset_labels=.'ham'.: allowed is value"),
        (["output_dir=conf/task/spam.yaml", "task=rotten_tomatoes"], "spam.yaml is a file"),
        (["task=rotten_tomatoes", "plm=smollm2", "tam=minilm", "plm.revision=v1"], "plm.revision=v1: .*this machine"),
        (["task=rotten_tomatoes", "plm=smollm2", "tam=minilm", "task.context.max_new_tokens=9000"],
         "context.prompt: its 4 tokens and context.max_new_tokens=9000 exceed the 8192 positions"),
        (["task=rotten_tomatoes", "plm=smollm2", "tam=minilm", "task.max_new_tokens=9000"],
         "max_new_tokens=9000"),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_line_and_exit_code_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    before = sorted(folder.rglob("*"))
    code, _, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert err.startswith("zerogen: error: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert sorted(folder.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SPAM.replace("labels:", "lables:"), "lables: is not a key; .*did you mean 'labels'"),
        (SPAM.replace("spam: 'An", "spma: 'An"), "prompts has none for label 'spam'; did you mean 'spma'"),
        (SPAM + "gold: [", r"spam.yaml:\d+: not YAML"),
        (SPAM.replace("ham: 'A", "yes: 'A"), "Key True .*quote it in the file"),
        (SPAM + "max_length: long\n", "max_length=long: allowed is a whole number"),
    ],
)
def test_a_wrong_task_file_gets_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    (folder / "conf" / "task" / "spam.yaml").write_text(content)
    code, _, err = run(capsys, monkeypatch, "--config-dir", "conf", "task=spam")
    assert code == 2
    assert re.search(message, err)
    assert len(err.splitlines()) == 1


def test_help_names_every_key_and_the_users_own_tasks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "--help", "--config-dir", "conf")
    assert code == 0
    assert "spam" in out
    assert all(f"  {key} " in out for key in help_of(Config))
    assert max(map(len, out.splitlines())) <= 80
    keys = OmegaConf.structured(Config)
    for key in keys:  # one that holds keys is documented by them
        assert key in help_of(Config) or isinstance(keys[key], DictConfig), key


def test_overrides_stand_on_both_sides_of_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zerogen", "task=imdb", "-m", "n=10,20", "dataset_labels={0: positive}"])
    configs = cli.compose()
    assert [(config.task.name, config.n) for config in configs] == [("imdb", 10), ("imdb", 20)]
    assert configs[0].dataset_labels == {0: "positive"}


def test_a_checkpoint_lends_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zerogen", "train=false", "tam.checkpoint=runs/first one/tam"])
    (config,) = cli.compose()
    assert config.tam.name == "first-one"


def test_an_own_option_for_an_lstm_names_its_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "conf" / "tam").mkdir()
    (folder / "conf" / "tam" / "mine.yaml").write_text("name: mine\nkind: lstm\n")

    def trainer(*arguments: str) -> TrainerConfig:
        monkeypatch.setattr(sys, "argv", ["zerogen", "--config-dir", "conf", "tam=mine", "task=squad", *arguments])
        return cli.compose()[0].trainer

    with pytest.raises(UserError, match="trainer.lr=2e-05: is for encoders, tam=mine would .* allowed is trainer=lstm"):
        trainer()
    assert (trainer("trainer=lstm").lr, trainer("trainer=lstm").ema, trainer("trainer.lr=0.01").lr) == (
        1e-3,
        0.999,
        0.01,
    )


def test_the_composed_configuration_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "--config-dir", "conf", "task=spam", "tam=lstm", "--cfg", "job")
    assert code == 0
    assert "patience: 5" in out  # the trainer that belongs to the TAM
    assert "name: spam" in out


@pytest.mark.parametrize(
    "arguments", [["-m", "zerogen", "--help"], ["-m", "zerogen", "--cfg", "job"], ["-c", "import zerogen"]]
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "zerogen" in imported
    assert not imported & {"torch", "transformers", "datasets", "pytorch_lightning", "numpy", "rich.progress"}


def test_defaults_are_the_papers_models(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["zerogen", "-m", "setting=supervised,prompting,zerogen", "task=rotten_tomatoes,imdb"]
    )
    configs = cli.compose()
    assert [(config.setting.name, config.task.name) for config in configs] == [
        (setting, task) for setting in ("supervised", "prompting", "zerogen") for task in ("rotten_tomatoes", "imdb")
    ]
    assert {config.plm.model for config in configs} == {"openai-community/gpt2-xl"}
    assert {config.tam.model for config in configs} == {"distilbert/distilbert-base-uncased"}


PLMS = sorted(path.stem for path in (conf_dir() / "plm").iterdir() if path.stem != "smollm2")
SERVERS = ("llamacpp", "ollama", "openai", "vllm")


@pytest.mark.parametrize("option", SERVERS)
def test_a_server_has_its_address_and_wants_a_model(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zerogen", "task=rotten_tomatoes", f"plm={option}", "plm.model=mine"])
    (config,) = cli.compose()
    assert config.plm.writer == "openai" and config.plm.base_url is not None
    monkeypatch.setattr(sys, "argv", ["zerogen", "task=rotten_tomatoes", f"plm={option}"])
    with pytest.raises(UserError, match=r"plm\.model: has no value"):
        cli.compose()


@pytest.mark.parametrize("option", sorted({*PLMS} - {*SERVERS}))
def test_a_plm_of_the_hub_is_named_where_it_cannot_be_fetched(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zerogen", f"plm={option}"])
    (config,) = cli.compose()
    assert config.plm.name == option
    with pytest.raises(Unavailable) as refusal:
        open_plm(config.plm, torch.device("cpu"))
    assert re.fullmatch(r"plm.model=[\w-]+/[\w.-]+: could not be loaded \(.*", str(refusal.value))
    assert config.plm.model in str(refusal.value)


EVIL = """
# @package _global_
hydra:
  callbacks:
    own: {_target_: tests.test_cli.planted}
task:
  name: spam
  labels: [ham, spam]
  prompts: {ham: 'A friend wrote: "', spam: 'An advertiser wrote: "'}
"""
PLANTED: list[str] = []


def planted() -> None:
    """What a stranger's task names as a callback of Hydra's."""
    PLANTED.append("ran")


@pytest.mark.parametrize(
    ("path", "content", "key"),
    [
        ("task/spam.yaml", EVIL, "hydra.callbacks"),
        ("task/spam.yaml", "defaults:\n  - /callbacks@hydra.callbacks: own\n" + SPAM, "/callbacks@hydra.callbacks"),
        ("task/spam.yaml", "defaults:\n  - override /hydra/launcher: own\n" + SPAM, "override /hydra/launcher"),
        ("task/spam.yaml", "# @package hydra.callbacks\nown: {_target_: tests.test_cli.planted}\n", "hydra.callbacks"),
        ("task/spam.yaml", "# @package _global_\nhydra: {run: {dir: elsewhere}}\n", "hydra.run"),
        (
            "task/spam.yaml",
            "# @package _global_\nhydra: {sweeper: {_target_: tests.test_cli.planted}}\n",
            "hydra.sweeper",
        ),
        (
            "task/spam.yaml",
            '# @package _global_\nhydra: {sweeper: {params: {"+hydra.callbacks.own": 1}}}\n',
            r"\+hydra",
        ),
        ("hydra/launcher/own.yaml", "_target_: tests.test_cli.planted\n", "hydra/launcher/own"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["dry_run=true"]])
def test_a_strangers_file_does_not_reach_hydra(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    content: str,
    key: str,
    dry: list[str],
) -> None:
    PLANTED.clear()
    (folder / "conf" / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / "conf" / path).write_text(content)
    (folder / "conf" / "callbacks").mkdir()
    (folder / "conf" / "callbacks" / "own.yaml").write_text("_target_: tests.test_cli.planted\n")
    if "launcher" in path:
        dry = [*dry, "hydra/launcher=own", "-m"]
    code, _, err = run(capsys, monkeypatch, "--config-dir", "conf", "task=spam", *dry)
    assert code == 2
    assert re.search(rf"{key}.*may run any code; if you trust .* add --trust-config", err), err
    assert len(err.splitlines()) == 1
    assert not PLANTED


@pytest.mark.parametrize(
    "content",
    [
        "hydra: {sweeper: {params: {task.prompts.ham: '${oc.env:WANDB_API_KEY}'}}}\n",
        "output_dir: out/${oc.env:WANDB_API_KEY}\n",
        "plm: {revision: '${oc.env:WANDB_API_KEY}'}\n",
        "dataset_labels: {0: '${oc.env:WANDB_API_KEY}'}\n",
        "dataset_labels: {'${oc.env:WANDB_API_KEY}': a}\n",
        "data_dir: ${oc.${n}:WANDB_API_KEY}\n",
    ],
)
def test_a_strangers_file_learns_nothing_of_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-mine")
    task = "".join(f"  {line}\n" for line in SPAM.strip().splitlines())
    (folder / "conf" / "task" / "spam.yaml").write_text(f"# @package _global_\n{content}task:\n{task}")
    code, out, err = run(capsys, monkeypatch, "--config-dir", "conf", "-m", "task=spam")
    assert code == 2
    assert "asks for something outside of the configuration" in err and "--trust-config" in err
    assert "secret-of-mine" not in out + err


def test_a_configuration_of_the_users_own_is_no_exception(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "conf" / "evil.yaml").write_text("hydra: {callbacks: {own: {_target_: tests.test_cli.planted}}}\n")
    PLANTED.clear()
    code, _, err = run(capsys, monkeypatch, "--config-path", str(folder / "conf"), "--config-name", "evil")
    assert (code, PLANTED) == (2, [])
    assert "sets 'hydra.callbacks'" in err


def test_a_name_that_only_sounds_like_hydra_is_none_of_its(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "task" / "hydra_facts.yaml").write_text(SPAM)
    (folder / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: hydra_facts\n"
    )
    monkeypatch.setattr(sys, "argv", ["zerogen", "--config-dir", "conf", "experiment=own"])
    assert cli.compose()[0].task.name == "spam"


def test_a_trusted_file_may_set_keys_of_hydra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED.clear()
    (folder / "conf" / "task" / "spam.yaml").write_text(EVIL)
    monkeypatch.setattr(sys, "argv", ["zerogen", "--trust-config", "--config-dir", "conf", "task=spam"])
    with pytest.warns(UserWarning, match="Callback NoneType"):  # what `planted` gives is none
        (config,) = cli.compose()
    assert (config.task.name, PLANTED) == ("spam", ["ran"])


def test_what_a_sweep_goes_over_needs_no_trust(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "experiment" / "two.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {n: '10,20'}}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["zerogen", "--config-dir", "conf", "-m", "task=spam", "experiment=two"])
    assert [config.n for config in cli.compose()] == [10, 20]


def test_texts_of_a_task_are_not_interpolated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    text = 'Costs ${price}, ${oc.env:WANDB_API_KEY}, ${ 5 or \\${x}: "'
    (folder / "conf" / "task" / "spam.yaml").write_text(SPAM.replace("A friend wrote: \"'", text + "'", 1))
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ntask: {scoring: {ham: '${oc.env:WANDB_API_KEY} <X>'}}\nn: ${seed}\n"
    )
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "zerogen",
            "--config-dir",
            "conf",
            "task=spam",
            "experiment=own",
            "task.prompts.spam='${oc.env:WANDB_API_KEY}'",
        ],
    )
    (config,) = cli.compose()
    assert config.task.prompts == {"ham": text, "spam": "${oc.env:WANDB_API_KEY}"}
    assert config.task.scoring["ham"] == "${oc.env:WANDB_API_KEY} <X>"
    assert config.n == config.seed == 42  # elsewhere they are what Hydra's users expect


def test_home_folders_are_found_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    task = SPAM.replace("A friend wrote: ", "<C>: ", 1) + "context: {source: '~/data/none.txt'}\n"
    (folder / "conf" / "task" / "spam.yaml").write_text(task + "gold: {own: {files: {validation: '~/data/v.csv'}}}\n")
    words = [
        f'{key}="~/x"' for key in ("output_dir", "dataset", "tam.vectors", "tam.checkpoint", "plm.model", "tam.model")
    ]
    monkeypatch.setattr(
        sys, "argv", ["zerogen", "--config-dir", "conf", "task=spam", "tam=lstm", "trainer=lstm", "train=false", *words]
    )
    (config,) = cli.compose()
    found = [config.output_dir, config.dataset, config.tam.vectors, config.tam.checkpoint, config.plm.model]
    assert [*found, config.tam.model] == [str(folder / "x")] * 6
    assert config.task.gold["own"].files == {"validation": str(folder / "data" / "v.csv")}
    assert config.task.context is not None and config.task.context.source == str(folder / "data" / "none.txt")


def test_without_words_the_help_and_two_commands_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch)
    assert code == 2
    assert "Groups: group=option" in out
    assert "experiment=demo setting=supervised,prompting,zerogen" in out
    assert "--config-dir my_conf task=topic plm=smollm2 tam=minilm n=200" in out


@pytest.mark.parametrize(
    ("method", "select", "overgenerate", "loss", "rounds"),
    [
        ("zerogen", [], 1.0, "cross_entropy", 0),
        ("supergen", ["logprob"], 4.0, "smoothed", 0),
        ("unigen", ["unigen"], 2.0, "cross_entropy", 0),
        ("sungen", ["sungen"], 1.0, "cross_entropy", 0),
        ("fusegen", ["fusegen"], 1.0, "cross_entropy", 0),
        ("progen", [], 1.0, "cross_entropy", 0),
        ("best", [], 1.0, "cross_entropy", 1),
    ],
)
def test_a_method_is_parts_that_can_be_replaced_singly(
    monkeypatch: pytest.MonkeyPatch, method: str, select: list[str], overgenerate: float, loss: str, rounds: int
) -> None:
    line = ["zerogen", "experiment=demo", f"method={method}", "unlabelled=gold" if rounds else "n=100"]
    monkeypatch.setattr(sys, "argv", line)
    (config,) = cli.compose()
    assert (config.select, config.overgenerate, config.trainer.loss) == (select, overgenerate, loss)
    assert config.trainer.ensembling == (10 if method == "supergen" else None)
    assert config.self_training.rounds == rounds and config.trainer.lr == 1e-4  # the rest of the trainer stays
    monkeypatch.setattr(sys, "argv", [*line, "trainer.loss=gce"])
    (changed,) = cli.compose()
    assert (changed.select, changed.trainer.loss) == (select, "gce")
