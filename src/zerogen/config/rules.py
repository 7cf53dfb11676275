"""Check that values are within bounds, and that the keys of a configuration fit together."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import asdict
from urllib.parse import urlsplit

from zerogen.config.schema import (
    CALIBRATIONS_ON_TEXTS,
    ENGINES,
    FEWEST_UNLABELLED,
    LOGGER_MODES,
    PARALLEL_WRITERS,
    SERVER,
    SERVER_KEYS,
    TOKENIZERS,
    Config,
    DecodingConfig,
    EngineConfig,
    FilterConfig,
    LoggerConfig,
    PlmConfig,
    SelfTrainingConfig,
    TamConfig,
    TrainerConfig,
)
from zerogen.config.task_schema import TaskConfig
from zerogen.errors import UserError, unknown
from zerogen.support.doors import is_own
from zerogen.support.files import LONGEST_NAME

# What requests for texts hold from other keys.
_SENT = ("model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs")
_NOT_SENT = ("n", "stream", "echo", "best_of", "max_completion_tokens")  # fields whose answers nothing reads


def _between(key: str, value: float, allowed: str, ok: bool) -> None:
    if not ok:
        raise UserError(f"{key}={value}: allowed is {allowed}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(key, value, allowed)


def check_decoding(decoding: DecodingConfig) -> None:
    """Check the bounds of decoding. Raises `UserError`."""
    if decoding.top_p == 0:
        raise UserError(
            "decoding.top_p=0: allowed is 0 < top_p <= 1 (1 is off; for greedy decoding set decoding.top_k=1)"
        )
    _between("decoding.top_p", decoding.top_p, "0 < top_p <= 1", 0 < decoding.top_p <= 1)
    _between("decoding.top_k", decoding.top_k, "0 (off) or more", decoding.top_k >= 0)
    _between("decoding.temperature", decoding.temperature, "more than 0", decoding.temperature > 0)
    if decoding.batch_size is not None:
        _between("decoding.batch_size", decoding.batch_size, "null, or 1 or more", decoding.batch_size >= 1)
    _between("decoding.chunk_size", decoding.chunk_size, "1 or more", decoding.chunk_size >= 1)


def check_counters(task: TaskConfig) -> None:
    """Check the bounds of self-debiasing and of contrast, and that not both are on. Raises `UserError`."""
    debias, contrast = task.debias, task.contrast
    _between("task.debias.decay", debias.decay, "0 (off) or more", debias.decay >= 0)
    _between("task.debias.epsilon", debias.epsilon, "0 <= epsilon <= 1", 0 <= debias.epsilon <= 1)
    guidance, floor = contrast.guidance, contrast.floor
    _between("task.contrast.guidance", guidance, "0 or more (1 is off)", 0 <= guidance < math.inf)
    _between("task.contrast.floor", floor, "0 <= floor < 1", 0 <= floor < 1)
    if debias.decay and guidance != 1:
        raise UserError(
            f"task.contrast.guidance={guidance}: takes the place of self-debiasing, and task.debias.decay="
            f"{debias.decay}; allowed with task.debias.decay=0"
        )


def check_filter(filters: FilterConfig) -> None:
    """Check the bounds of the filters. Raises `UserError`."""
    if filters.min_words is not None:
        _between("filter.min_words", filters.min_words, "null, or 0 or more", filters.min_words >= 0)
    _between("filter.min_acceptance", filters.min_acceptance, "0 <= share < 1", 0 <= filters.min_acceptance < 1)
    _between("filter.patience", filters.patience, "1 or more", filters.patience >= 1)
    if filters.round_trip is not None:
        _between("filter.round_trip", filters.round_trip, "null, or 0 <= F1 <= 1", 0 <= filters.round_trip <= 1)
    if filters.max_words is not None:
        least = filters.min_words or 0
        _between("filter.max_words", filters.max_words, f"filter.min_words={least} or more", filters.max_words >= least)


def check_plm(config: Config) -> None:
    """Check the PLM's arithmetic, and that it can be opened once per device. Raises `UserError`."""
    plm, gpus = config.plm, config.gpu
    _one_of("plm.dtype", plm.dtype, ("auto", "float32", "bfloat16", "float16"))
    if not is_own(plm.writer):
        _check_chat(plm)
        _check_server(plm)
    if plm.scoring == "label_tokens":
        _check_label_tokens(config)
    _check_engine(config)
    if plm.writer in PARALLEL_WRITERS:
        return
    several = f"processes={config.processes}" if config.processes > 1 else ""
    if isinstance(gpus, list) and len(gpus) > 1:
        several = f"gpu={gpus}"
    if config.engine.name != EngineConfig.name:
        several = f"engine={config.engine.name}"
    if several:
        raise UserError(
            f"{several}: plm.writer={plm.writer} writes in one process, on one device; allowed with plm.writer="
            f"{' or '.join(PARALLEL_WRITERS)}"
        )


def _check_engine(config: Config) -> None:
    """Check who writes the rows. Raises `UserError` for a key that another engine reads."""
    engine, usual = config.engine, EngineConfig()
    _one_of("engine", engine.name, ENGINES)
    for name, reader in (("nodes", "lightning"), ("address", "ray"), ("workers", "ray"), ("cpus", "ray")):
        value = getattr(engine, name)
        if value != getattr(usual, name) and engine.name != reader:
            raise UserError(f"engine.{name}={value}: is read by engine={reader}, not by engine={engine.name}")
        if isinstance(value, int):
            _between(f"engine.{name}", value, "1 or more", value >= 1)
    if engine.name == usual.name:
        return
    if engine.name == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("engine=ray: needs the package ray; pip install 'zerogen[ray]'")
    if config.processes > 1:
        raise UserError(f"processes={config.processes}: is for engine=local; engine={engine.name} has its own")
    if config.gpu not in ("auto", "none"):
        raise UserError(f"gpu={config.gpu}: engine={engine.name} knows which GPUs there are; allowed is auto or none")


def _check_chat(plm: PlmConfig) -> None:
    if not isinstance(plm.chat, bool) and plm.chat != "auto":
        raise UserError(f"plm.chat={plm.chat}: allowed is auto, true or false")
    if plm.system is not None and plm.chat is not True:
        raise UserError(f"plm.system={plm.system}: is a turn of a chat; set plm.chat=true, or leave it out")


def _check_label_tokens(config: Config) -> None:
    """Check that nothing is asked of the first tokens of labels that they do not tell."""
    setting = config.setting
    usual = (("setting.scope", setting.scope, "prompt"), ("setting.prompts", setting.prompts, "first"))
    calibrated = ("setting.calibration", setting.calibration, "none" if setting.calibration == "prior" else None)
    shown = ("scoring_demonstrations", config.scoring_demonstrations, 0)
    for key, value, allowed in (*usual, calibrated, shown):
        if allowed is not None and value != allowed:
            raise UserError(f"{key}={value}: plm.scoring=label_tokens scores no whole texts; allowed is {allowed}")


def check_address(url: str) -> None:
    """Check the address of a server. Raises `UserError`, which does not repeat a secret that it may hold."""
    address, allowed = urlsplit(url), "allowed is such as http://localhost:8000/v1"
    shown = f"plm.base_url={address.scheme}://...{address.path}"
    if "@" in url or address.query or address.fragment:
        raise UserError(
            f"{shown}: holds a name, a password or a query, which would stand in files; the key comes from the "
            f"environment alone; {allowed}"
        )
    try:
        _ = address.port
    except ValueError as error:
        raise UserError(f"plm.base_url={url}: {error}; {allowed}") from error
    if address.scheme not in ("http", "https") or not address.hostname or any(sign.isspace() for sign in url):
        raise UserError(f"plm.base_url={url}: {allowed}")


def _check_server(plm: PlmConfig) -> None:
    """Check what is said of a server, and that it is said of one."""
    if plm.base_url is not None:
        check_address(plm.base_url)
    if plm.writer != SERVER:
        usual = PlmConfig()
        for key in SERVER_KEYS:
            if (value := getattr(plm, key)) != getattr(usual, key):
                raise UserError(f"plm.{key}={value}: is about a server; set plm.writer={SERVER}, or leave it out")
        return
    if not plm.base_url:
        raise UserError(f"plm.writer={SERVER}: set plm.base_url, such as http://localhost:8000/v1")
    for key in ("revision", "dtype"):
        if (value := getattr(plm, key)) != getattr(PlmConfig(), key):
            raise UserError(f"plm.{key}={value}: is about weights; the server has those of its own, so leave it out")
    _one_of("plm.scoring", plm.scoring, ("auto", "label_tokens"))
    _between("plm.concurrency", plm.concurrency, "1 or more", plm.concurrency >= 1)
    _between("plm.timeout", plm.timeout, "more than 0 seconds", 0 < plm.timeout < math.inf)
    _between("plm.retries", plm.retries, "0 (none) or more", plm.retries >= 0)
    if plm.max_positions is not None:
        _between("plm.max_positions", plm.max_positions, "null, or 2 or more", plm.max_positions >= 2)
    for key in ("price_in", "price_out"):
        if (price := getattr(plm, key)) is not None:
            _between(f"plm.{key}", price, "null, or 0 or more", 0 <= price < math.inf)
    if (plm.price_in is None) != (plm.price_out is None):
        raise UserError("plm.price_in and plm.price_out: allowed are both, or none")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", plm.key_variable):
        # Not the value: it may be the key itself.
        raise UserError("plm.key_variable: allowed is the name of an environment variable, such as OPENAI_API_KEY")
    for key in plm.extra:
        if key in _SENT:
            raise UserError(f"plm.extra.{key}: is set by other keys; allowed are fields beside {', '.join(_SENT)}")
        if key in _NOT_SENT:
            raise UserError(f"plm.extra.{key}: asks for answers of another shape; leave it out")
        if "key" in key.casefold() or "authorization" in key.casefold():
            raise UserError(f"plm.extra.{key}: would stand in files; the key comes from the environment alone")


def check_trainer(trainer: TrainerConfig) -> None:
    """Check the bounds of training. Raises `UserError`."""
    _one_of("trainer.optimizer", trainer.optimizer, ("adamw", "adam", "adadelta"))
    _one_of("trainer.schedule", trainer.schedule, ("linear", "constant"))
    _between("trainer.lr", trainer.lr, "more than 0", trainer.lr > 0)
    _between("trainer.weight_decay", trainer.weight_decay, "0 or more", trainer.weight_decay >= 0)
    _between("trainer.warmup_ratio", trainer.warmup_ratio, "0 <= ratio < 1", 0 <= trainer.warmup_ratio < 1)
    _between("trainer.batch_size", trainer.batch_size, "1 or more", trainer.batch_size >= 1)
    _between("trainer.epochs", trainer.epochs, "1 or more", trainer.epochs >= 1)
    _between("trainer.heldout", trainer.heldout, "0 < share <= 0.5", 0 < trainer.heldout <= 0.5)
    _between("trainer.gradient_clip", trainer.gradient_clip, "more than 0", trainer.gradient_clip > 0)
    if trainer.ema is not None:
        _between("trainer.ema", trainer.ema, "0 < ema < 1, or null", 0 < trainer.ema < 1)
    if trainer.patience is not None:
        _between("trainer.patience", trainer.patience, "1 or more, or null", trainer.patience >= 1)
    _between("trainer.ensembling_steps", trainer.ensembling_steps, "1 or more", trainer.ensembling_steps >= 1)
    if trainer.ensembling is not None:
        _between("trainer.ensembling", trainer.ensembling, "0 or more, or null", 0 <= trainer.ensembling < math.inf)
    elif trainer.ensembling_steps != TrainerConfig.ensembling_steps:
        raise UserError(
            f"trainer.ensembling_steps={trainer.ensembling_steps}: does nothing while trainer.ensembling=null"
        )


def check_ensembling(trainer: TrainerConfig, task: TaskConfig) -> None:
    """Check that the labels of a task can be ensembled. Raises `UserError`."""
    if trainer.ensembling is not None and task.kind == "qa":
        raise UserError(
            f"trainer.ensembling={trainer.ensembling}: is about labels; task '{task.name}' is qa; allowed is null"
        )


def check_tam(tam: TamConfig) -> None:
    """Check the sizes of a TAM. Raises `UserError`."""
    _one_of("tam.dtype", tam.dtype, ("auto", "float32", "bfloat16"))
    if tam.dropout is not None:
        _between("tam.dropout", tam.dropout, "0 <= dropout < 1", 0 <= tam.dropout < 1)
    _between("tam.embedding", tam.embedding, "1 or more", tam.embedding >= 1)
    if tam.hidden is not None:
        _between("tam.hidden", tam.hidden, "null, or 1 or more", tam.hidden >= 1)
    _between("tam.vocabulary", tam.vocabulary, "3 or more", tam.vocabulary >= 3)


def check_measures(config: Config) -> None:
    """Check how synthetic rows are measured. Raises `UserError`."""
    _one_of("diversity.tokenizer", config.diversity.tokenizer, TOKENIZERS)
    _between(
        "diversity.self_bleu_texts",
        config.diversity.self_bleu_texts,
        "2 or more",
        config.diversity.self_bleu_texts >= 2,
    )
    _between("correctness.rows", config.correctness.rows, "1 or more", config.correctness.rows >= 1)
    _between("confidence.rows", config.confidence.rows, "0 (off) or more", config.confidence.rows >= 0)
    if config.correctness.evaluator and not config.task.gold:
        raise UserError(
            f"correctness.evaluator={config.correctness.evaluator}: is trained on gold data, and task "
            f"'{config.task.name}' has none (task.gold)"
        )


def check_unlabelled(config: Config) -> None:
    """Check how unlabelled texts are used. Raises `UserError`."""
    rounds, share, limit = config.self_training.rounds, config.self_training.share, config.unlabelled_limit
    _between("self_training.rounds", rounds, "0 (off) or more", rounds >= 0)
    _between("self_training.share", share, "0 < share <= 1", 0 < share <= 1)
    if limit is not None:
        _between("unlabelled_limit", limit, f"{FEWEST_UNLABELLED} or more", limit >= FEWEST_UNLABELLED)
    if (synthetic := config.self_training.synthetic) not in (True, False, "auto"):
        raise UserError(f"self_training.synthetic={synthetic}: allowed is true, false or auto")
    if config.unlabelled == "gold" and config.unlabelled_column is not None:
        raise UserError(f"unlabelled_column={config.unlabelled_column}: is about a file; unlabelled=gold has its own")
    if not rounds:
        for name, value in asdict(config.self_training).items():
            if value != getattr(SelfTrainingConfig(), name):
                raise UserError(f"self_training.{name}={value}: does nothing while self_training.rounds=0")
    for key in ("unlabelled_limit", "unlabelled_column"):
        if getattr(config, key) is not None and config.unlabelled is None and not rounds:
            raise UserError(f"{key}={getattr(config, key)}: is about unlabelled texts; set unlabelled=FILE")


def check_logger(logger: LoggerConfig) -> None:
    """Check the choices of a logger. Raises `UserError`."""
    _one_of("logger.name", logger.name, ("csv", "tensorboard", "wandb"))
    if logger.mode is not None:
        _one_of("logger.mode", logger.mode, LOGGER_MODES)
        if logger.name != "wandb":
            raise UserError(
                f"logger.mode={logger.mode}: logger={logger.name} does not read it; allowed with logger=wandb"
            )


def check_size(key: str, value: int | None, task: TaskConfig) -> None:
    """Check that a number of rows holds one of each label. Raises `UserError`."""
    labels = len(task.labels)
    if value is not None and value < labels:
        raise UserError(f"{key}={value}: allowed is {labels} or more, the number of labels of task '{task.name}'")


def check(config: Config) -> None:
    """Check what a type cannot say. Raises `UserError` naming the key, the value and what is allowed."""
    check_decoding(config.decoding)
    check_filter(config.filter)
    check_counters(config.task)
    check_trainer(config.trainer)
    check_tam(config.tam)
    check_measures(config)
    check_unlabelled(config)
    check_logger(config.logger)
    check_plm(config)
    _one_of("on_error", config.on_error, ("continue", "stop"))
    _one_of("setting.prompts", config.setting.prompts, ("first", "all"))
    _one_of("setting.scope", config.setting.scope, ("prompt", "text"))
    _one_of("setting.calibration", config.setting.calibration, ("none", "prior", *CALIBRATIONS_ON_TEXTS))
    for key in ("plm.name", "tam.name"):
        check_name(key, getattr(config, key[:3]).name)
    for key in ("n", "log_every", "limit", "eval_limit"):
        check_size(key, getattr(config, key), config.task)
    if config.seeds is not None and (not config.seeds or len(set(config.seeds)) != len(config.seeds)):
        raise UserError(f"seeds={config.seeds}: allowed is a list of different integers")
    if config.tam.checkpoint and config.train:
        raise UserError(
            f"tam.checkpoint={config.tam.checkpoint}: is evaluated only, with train=false; "
            "to start training from a folder set tam.model"
        )
    if config.metrics and not config.task.gold:
        raise UserError(
            f"metrics=[{','.join(config.metrics)}]: are about gold rows; task '{config.task.name}' has none (task.gold)"
        )
    if config.dataset is not None:
        files = config.dataset if isinstance(config.dataset, list) else [config.dataset]
        if not files or not all(isinstance(file, str) and file for file in files) or len(set(files)) != len(files):
            given = f"[{','.join(map(str, files))}]" if isinstance(config.dataset, list) else config.dataset
            raise UserError(f"dataset={given}: allowed is a file or folder, or a list such as [a.jsonl,b.jsonl]")
        config.dataset = files[0] if len(files) == 1 else files
    labels = config.dataset_labels
    if labels is None:
        config.dataset_labels = {}
    elif not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"dataset_labels={labels}: allowed is value: label name, such as {{0: positive, 1: negative}}")
    if config.gpu is None:
        config.gpu = "none"
    if config.gpu not in ("auto", "none"):
        indices = config.gpu if isinstance(config.gpu, list) else [config.gpu]
        if not indices or any(type(index) is not int for index in indices) or len(set(indices)) != len(indices):
            raise UserError(f"gpu={config.gpu}: allowed is auto, none, an index such as 0 or a list such as [0,1]")
    check_gold_rows(config)
    _between("scoring_demonstrations", config.scoring_demonstrations, "0 or more", config.scoring_demonstrations >= 0)
    _between("overgenerate", config.overgenerate, "1 or more", 1 <= config.overgenerate < math.inf)
    _between("processes", config.processes, "1 or more", config.processes >= 1)


def check_gold_rows(config: Config) -> None:
    """Check what gold rows a run with synthetic rows may use. Raises `UserError`."""
    rows, weight = config.gold_rows, config.gold_weight
    _between("gold_weight", weight, "above 0", 0 < weight < math.inf)
    if rows is None or rows == 0:
        if weight != 1:
            raise UserError(f"gold_weight={weight}: is about gold_rows; set these, or leave it out")
        return
    if isinstance(rows, bool) or not isinstance(rows, int | str):
        raise UserError(f"gold_rows={rows}: allowed is a number of rows or a file")
    if isinstance(rows, int):
        _between("gold_rows", rows, "0 (none) or more", rows >= 0)
        if not config.task.gold:
            task = config.task.name
            raise UserError(f"gold_rows={rows}: task '{task}' has no gold data (task.gold); allowed is a file")
    if not config.train and not config.tam.checkpoint:
        raise UserError(f"gold_rows={rows}: are trained on; train=false does not train")


def check_name(key: str, name: str) -> None:
    """Check that a name can stand in a file name. Raises `UserError`."""
    if not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UserError(
            f"{key}={name}: allowed are letters, digits, '_', '-' and, but for the first one, '.', "
            f"{LONGEST_NAME} bytes in all; it becomes part of file names"
        )
