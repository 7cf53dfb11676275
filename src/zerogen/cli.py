"""The command `zerogen`: compose the configuration with Hydra, check it, run it."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zerogen.config.bundled import conf_dir
from zerogen.config.hydra_files import TRUST, compose_before_launching, read_configuration_by
from zerogen.config.keys import help_of
from zerogen.config.launcher import launcher_of, missing_launcher
from zerogen.config.rules import check
from zerogen.config.schema import Config, TrainerConfig
from zerogen.config.task import expand_paths, normalise_task, override
from zerogen.config.yaml_files import as_text, is_schema, literal, misplaced, refusal
from zerogen.errors import UserError, nearest
from zerogen.support.console import make_console, replace_unknown_characters, reporting_errors
from zerogen.support.doors import is_own
from zerogen.support.files import expanded, file_name

if TYPE_CHECKING:
    from rich.console import Console

    from zerogen.runs.result import Result

_HELP = """\
zerogen: a small task model from label names and prompts alone.

  python -m zerogen task=rotten_tomatoes setting=zerogen plm=smollm2 tam=minilm
  python -m zerogen -m setting=prompting,zerogen task=rotten_tomatoes,imdb
  python -m zerogen --config-dir my_conf task=my_task

== Groups: group=option ==
{groups}

== Keys of a run: key=value; those inside a group as group.key=value ==
{keys}

Show the whole configuration: --cfg job. Hydra's own flags: --hydra-help.
{trust} lets the files of --config-dir set keys of Hydra's own.
"""
_BEGIN = """
To begin, without an account or a download:

  python -m zerogen -m experiment=demo setting=supervised,prompting,zerogen
  python -m zerogen --config-dir my_conf task=topic plm=smollm2 tam=minilm n=200

The first one is what `make demo` runs. The second one is for a task of your own, which the README shows in five
lines. (task=sst2 alone would take the paper's models, 6 GB from the Hub.)
"""


def help_text(arguments: Sequence[str]) -> str:
    """Return the help: the groups' options (those of --config-dir too) and the keys of a run.

    Hydra's own help copies the whole configuration store for every group; this reads file names.
    """
    groups: dict[str, set[str]] = {}
    for folder in [conf_dir(), *own_folders(arguments)]:
        for path in folder.glob("*/*.yaml"):
            groups.setdefault(path.parent.name, set()).add(path.stem)
    return _HELP.format(
        groups=_columns({group: ", ".join(sorted(options)) for group, options in sorted(groups.items())}),
        keys=_columns(help_of(Config)),
        trust=TRUST,
    )


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that --config-dir names. Raises `UserError` for one that does not exist."""
    folders = []
    for flag, value in pairwise([*arguments, ""]):
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value))
        elif flag.startswith("--config-dir="):
            folders.append(Path(flag.partition("=")[2]))
    for folder in folders:
        if not folder.is_dir():
            near = nearest(folder.name, [path.name for path in folder.parent.glob("*") if path.is_dir()])
            raise UserError(f"--config-dir={folder}: there is no such folder{near}")
    return folders


def _columns(rows: dict[str, str]) -> str:
    """Lay out names and their help in 80 columns."""
    width = max(map(len, rows)) + 4
    return "\n".join(
        textwrap.fill(f"  {name:<{width - 2}}{text}", 80, subsequent_indent=" " * width, break_long_words=False)
        for name, text in rows.items()
    )


def main() -> None:
    """Entry point of `python -m zerogen` and of the console script."""
    replace_unknown_characters()
    if {"-h", "--help"} & set(sys.argv[1:]):
        with reporting_errors():
            print(help_text(sys.argv[1:]))
        return
    if not sys.argv[1:]:
        print(help_text([]) + _BEGIN, end="")
        sys.exit(2)
    if "--version" in sys.argv[1:]:
        print(f"zerogen {version('zerogen')}")
        return
    with reporting_errors():
        _run(compose())


def compose() -> list[Config]:
    """Compose and check every job of the command line, before any of them starts.

    Hydra itself answers --cfg, --info and the like; then there is no job. Raises `UserError` for anything that Hydra
    or the schema refuses.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != TRUST]
    read_configuration_by(trusted=TRUST in sys.argv)
    compose_before_launching()
    sys.argv = [sys.argv[0], *flags_first(arguments)]
    ConfigStore.instance().store(name="schema", node=Config)
    composed: list[tuple[DictConfig, list[str], list[str]]] = []
    launcher: dict[str, Any] = {}

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def job(config: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        sources = HydraConfig.get().runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        composed.append((config, overrides, folders))
        launcher.update(launcher_of(HydraConfig.get()))  # the same for all jobs

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing and exiting with 1
    with tempfile.TemporaryDirectory(prefix="zerogen-") as scratch:
        # Hydra writes a multirun.yaml even for a sweep that it then refuses.
        os.environ["ZEROGEN_SWEEP_DIR"] = scratch
        try:
            job()
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(explain(error, own_folders(arguments))) from error
        except (AssertionError, AttributeError) as error:
            # What OmegaConf raises for a key inside one that is null.
            if "omegaconf" not in traceback.extract_tb(error.__traceback__)[-1].filename:
                raise
            given = ", ".join(argument for argument in sys.argv[1:] if "=" in argument)
            raise UserError(f"one of {given}: sets a key inside one that is null (has no value to change)") from error
    configs, started = [typed(*one) for one in composed], time.strftime("%Y-%m-%d-%H-%M-%S")
    for config in configs:
        config.launcher = launcher
        if str(launcher.get("submitit_folder")).startswith(scratch):  # where nothing else is said
            # Not that of an earlier command: the number of a process, which is a local job's, may come again.
            logs = f"{config.output_dir}/.submitit/{started}-%j"
            config.launcher = launcher | {"submitit_folder": logs}
    return configs


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with Hydra's flags before the overrides; Hydra takes overrides on one side only.

    Raises `UserError` for a flag that Hydra does not know.
    """
    from hydra._internal.utils import get_args_parser  # Hydra gives no other access to its flags

    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser.error = refuse  # type: ignore[method-assign]
    overrides = parser.parse_intermixed_args(arguments).overrides
    return [*(argument for argument in arguments if argument not in overrides), *overrides]


def typed(config: DictConfig, overrides: Sequence[str], folders: Sequence[str]) -> Config:
    """Turn a composed configuration into the typed one and check it.

    overrides: the job's words on the command line. Where they name other weights, or a writer of the user's own, the
        option's name does not fit them.
    folders: those of --config-dir.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # ${...} in a task, which is text there, where a number is wanted
        raise UserError(explain(error)) from error
    if missing:
        plain = dict(OmegaConf.to_container(config.plm)) if missing[0] == "plm.model" else {}  # type: ignore[arg-type]
        server = plain.get("base_url")
        listed = f"; {server}/models lists those of the server" if server else ""
        raise UserError(f"{missing[0]}: has no value; write {missing[0]}=VALUE{listed}")
    try:
        # Once more against the schema: a key forced in with ++ is in the composed configuration all the same.
        plain = {str(key): _plain(config, str(key)) for key in config}
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), literal(plain)))
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(result, Config)
    if said := misplaced(result):
        raise UserError(said)
    result.command = [*(f"--config-dir={folder}" for folder in folders), *overrides]
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    for part in (result.plm, result.tam):
        group = "plm" if part is result.plm else "tam"
        if f"{group}.model" in given and f"{group}.name" not in given:
            part.name = file_name(str(part.model).rstrip("/").rpartition("/")[2]) or part.name
    if is_own(result.plm.writer) and "plm.writer" in given and not given & {"plm.model", "plm.name"}:
        result.plm.name = file_name(result.plm.writer.partition(":")[0]) or result.plm.name
    if result.tam.checkpoint and "tam.name" not in given:
        place = Path(result.tam.checkpoint).absolute()
        result.tam.name = file_name((place.parent if place.name == "tam" else place).name) or result.tam.name
    if result.tam.kind == "lstm" and result.trainer.lr == TrainerConfig.lr:
        # An option of the user's own for an LSTM, which has no trainer of its name.
        raise UserError(
            f"trainer.lr={result.trainer.lr}: is for encoders, tam={result.tam.name} would hardly learn; allowed is "
            "trainer=lstm, or a larger one"
        )
    for prefix, owner in (("", result), ("tam.", result.tam), ("plm.", result.plm)):
        for key in ("output_dir", "data_dir", "contexts", "dataset", "unlabelled", "checkpoint", "vectors", "model"):
            value = getattr(owner, key, None)
            if isinstance(value, list):
                setattr(owner, key, [expanded(one, prefix + key) if isinstance(one, str) else one for one in value])
            elif isinstance(value, str):
                setattr(owner, key, expanded(value, prefix + key))
    expand_paths(result.task)
    override(result.task, result.data_dir, result.contexts, result.answers, result.questions, result.pairs)
    normalise_task(result.task)
    check(result)
    return result


def _plain(config: DictConfig, key: str) -> Any:
    """Return what a key of the configuration holds, interpolated but for the task, whose texts are texts."""
    value = config[key]
    if not OmegaConf.is_config(value):
        return value
    return as_text(OmegaConf.to_container(value)) if key == "task" else OmegaConf.to_container(value, resolve=True)


def explain(error: BaseException, folders: Sequence[Path] = ()) -> str:
    """Say in one line what Hydra or OmegaConf refuses, with the nearest match.

    folders: those of --config-dir.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _missing_option(error, folders)
    cause: BaseException = error
    while not isinstance(cause, OmegaConfBaseException) and (below := cause.__cause__ or cause.__context__):
        cause = below
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key = str(cause.full_key)
        appends = "To append to your config use" in str(error)
        if appends and not (is_schema(cause.parent_node) and cause.key not in cause.parent_node):
            return f"{key}: has no value that could be replaced; to add one put a + before it: +{_word(key) or key}"
        word, _, given = _word(key).partition("=")
        if word == key:
            return refusal(cause, given)
        said, experiment = refusal(cause), _word("experiment")  # an experiment sets keys of any group
        named = " or ".join(one for one in (experiment, word and f"{word}={given}") if one)
        return said.replace(key, f"{key} of {named}", 1) if said.startswith(f"{key}: allowed") and named else said
    if isinstance(error, OverrideParseException) and error.override.rstrip("=").isidentifier():
        return f"{error.override}: is not a valid override; write key=value, without spaces"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not a valid override; quote a value that holds special characters: key='\"text\"'"
    text = str(error).strip().split("\n")[0]
    if text.startswith("Ambiguous value"):
        text += "; a list is written key=[1,2], a sweep over values needs -m"
    return text


def _word(key: str) -> str:
    """Return the word of the command line that sets a key, or what holds it, without +; "" where none does."""
    words = [word.lstrip("+") for word in sys.argv[1:]]
    words = [word for word in words if f"{key}.".startswith(f"{word.partition('=')[0]}.")]
    return max(words, key=lambda word: len(word.partition("=")[0]), default="")


def _missing_option(error: MissingConfigException, folders: Sequence[Path]) -> str:
    """Say that a group has no such option, and where a file stands that was meant."""
    path = str(error.missing_cfg_file)
    if path.startswith("hydra/launcher/"):
        return missing_launcher(path.removeprefix("hydra/launcher/"), error.options or [])
    group, _, name = path.partition("/")
    given = Path(name)
    if given.suffix in (".yaml", ".yml") or "/" in name:
        folder = given.parent.parent if given.parent.name == group else Path("FOLDER")
        there = "" if given.parent.name == group else f", with the file as {folder / group / given.stem}.yaml"
        return (
            f"{group}={name}: allowed is the name of an option, not a path; a file of your own is used with "
            f"--config-dir {folder} {group}={given.stem}{there}"
        )
    for folder in folders:
        if (other := folder / group / f"{name}.yml").is_file():
            return f"{group}={name}: {other} must end in .yaml; rename it to {other.with_suffix('.yaml')}"
    options = error.options or []
    near = nearest(name, options)
    if not near and group == "task" and not folders:
        near = "; for a task file of your own add --config-dir FOLDER, with the file in FOLDER/task"
    return f"{group}={name}: is unknown; allowed: {', '.join(options)}{near}"


def _run(configs: list[Config]) -> None:
    """Run the composed jobs and print what came of them."""
    if not configs:
        return
    from zerogen.support.process import go_offline_without_network, share_cores, stop_on_signals

    stop_on_signals()
    console = make_console()
    busy = share_cores()  # before anything loads torch
    from zerogen.dryrun import dry_run
    from zerogen.runs.checks import check_code

    check_code(configs)
    if len({config.engine.name for config in configs}) > 1:
        names = ", ".join(dict.fromkeys(config.engine.name for config in configs))
        raise UserError(f"engine={names}: the runs of one command have one engine; start a command for each")
    rank, size = 0, 1
    if configs[0].engine.name == "lightning":
        from zerogen.plm.nodes import gathered, rank_of, serve

        if configs[0].launcher:
            name = configs[0].launcher["launcher"]
            raise UserError(f"hydra/launcher={name}: starts jobs of its own, engine=lightning is started by torchrun")
        rank, size = rank_of(configs[0].engine)
    if configs[0].dry_run:
        if not rank:
            dry_run(configs, console)
        return
    if busy is not None and not rank:
        console.print(busy, highlight=False, markup=False, soft_wrap=True)
    go_offline_without_network()
    if rank:
        serve(configs[0], size)
    elif configs[0].engine.name == "lightning":
        with gathered(configs[0], size) as engine:
            _run_jobs([replace(config, engine=engine) for config in configs], console)
    else:
        _run_jobs(configs, console)


def _run_jobs(configs: list[Config], console: Console) -> None:
    """Run the composed jobs in this process, or processes of its own, and print what came of them."""
    from zerogen.jobs import expand, run_all
    from zerogen.launchers import launch
    from zerogen.runs.settings import setting_of

    groups = [expand(config) for config in configs]
    for config, group in zip(configs, groups, strict=True):
        if config.seeds is not None and len(group) < len(config.seeds):
            console.print(f"setting={setting_of(config).name} draws nothing here: one run stands for all seeds")
    from zerogen.report.terminal import report
    from zerogen.runs.result import Failed

    outcomes: list[Result | Failed] = []
    try:
        jobs = [config for group in groups for config in group]
        for outcome in launch(jobs, console) if jobs[0].launcher else run_all(jobs, console):
            outcomes.append(outcome)
    finally:  # what was finished is shown, also when the command is stopped
        if outcomes:
            report(groups, outcomes, Path(configs[0].output_dir), console)
    if any(isinstance(outcome, Failed) for outcome in outcomes):
        sys.exit(1)
