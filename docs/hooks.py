"""Write what the documentation takes from the code: the reference of all keys while it is built, the list of files.

`python docs/hooks.py` rewrites the list of folders and files in docs/architecture.md, which is checked in.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from zerogen.config.keys import help_of  # noqa: E402
from zerogen.config.schema import Config  # noqa: E402

PAGE = "reference/configuration.md"
MARKER = "<!-- keys: written by docs/hooks.py -->"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "src" / "zerogen"
BEGIN, END = "<!-- files: written by `python docs/hooks.py` -->", "<!-- end of the files -->"
# Every file in the order of reading: what is typed or imported first, then the folders in the order in which a row
# travels, as in tests/test_layers.py, and what all of them use last.
FILES = {
    "": "__init__ __main__ api cli jobs launchers dryrun predict measure table",
    "config": "schema task_schema rules task template bundled yaml_files hydra_files launcher keys",
    "data": "records overlap gold unlabelled tables words stratified synthetic texts predictions",
    "plm": "chat protocol open pretrained model decode cache network pack sampling gpu_kernels triton_attention "
    "triton_sampling cuda_graph rng debias contrast score client abilities server server_scores confidence prompting "
    "workers pulse nodes actors module",
    "generation": "contexts sources english answers extractors questions construction hypotheses demonstrations "
    "wording generator filters pool shards scores select selections weighting",
    "tam": "table tam encoder lstm bidaf scratch vectors labels spans batches fit learner losses ensemble similarity "
    "shift",
    "metrics": "metric classification squad intervals agreement diversity composition match priors pseudo_labels",
    "estimate": "",
    "runs": "settings checks run supervised prompting similarity zerogen zerogen_cost prompted labelling self_training "
    "answer_training calibration few_gold evaluator identity migration nearby store result summaries loggers",
    "measures": "rows match store files",
    "report": "page plots cards finished grid differences overview terminal __main__",
    "support": "doors console progress process gpus files resumable hashes weights lightning surrogates",
    "errors": "",
}
# Keys inside keys of the user's own: what stands for those in a heading.
NAMES = {"gold": "<source>"}


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replace the marker of the reference page by the tables of all keys."""
    if page.file.src_uri != PAGE:
        return markdown
    if MARKER not in markdown:
        raise ValueError(f"{PAGE}: has no line {MARKER}")
    return markdown.replace(MARKER, "\n".join(reference()))


def layout() -> Iterator[str]:
    """Yield the Markdown of all folders and files, each with the first line of its docstring.

    Raises ValueError where `FILES` lacks a file or names one that is not there.
    """
    for folder, names in FILES.items():
        if not names:
            yield f"**`{folder}.py`**: {first_line(SOURCE / f'{folder}.py')}\n"
            continue
        listed = [f"{name}.py" for name in names.split()]
        there = {path.name for path in (SOURCE / folder).glob("*.py")}
        there -= {"__init__.py"} if folder else {f"{name}.py" for name in FILES}
        if there != set(listed):
            raise ValueError(f"docs/hooks.py: FILES and src differ in {folder}/: {sorted(there ^ set(listed))}")
        said = first_line(SOURCE / folder / "__init__.py") if folder else "The entry points: what is typed or imported."
        yield f"| `{folder or 'zerogen'}/` | {said} |\n|---|---|"
        yield from (f"| `{name}` | {first_line(SOURCE / folder / name)} |" for name in listed)
        yield ""


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def with_files(page: str) -> str:
    """Return the page of the architecture with the list of files between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{ARCHITECTURE.name}: has no lines {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *layout(), END]) + after


def reference() -> Iterator[str]:
    """Yield the Markdown of all keys: those of a run first, then each group with its options."""
    groups = [name for name, hint in hints(Config).items() if dataclasses.is_dataclass(hint)]
    yield "## Keys of a run\n"
    yield from table(Config, "", skip=groups)
    chosen = defaults()
    for group in groups:
        yield f"\n## {group} {{#{group}}}\n"
        yield from options(group, chosen.get(group))
        yield from section(hints(Config)[group], group)


def options(group: str, chosen: str | None) -> Iterator[str]:
    """Yield the bundled options of a group, if it has any, with what they set."""
    paths = sorted((ROOT / "conf" / group).glob("*.yaml"))
    if not paths:
        return
    names = ", ".join(f"`{path.stem}`" for path in paths)
    yield f"Options: {names}" + (f"; `{chosen}` by default.\n" if chosen else ".\n")
    if group == "task":  # each of them is a page of its own
        return
    yield '??? note "What the options set"\n\n    ```{.yaml}'
    for path in paths:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @")]
        yield "\n".join(f"    {line}" for line in [f"# {group}={path.stem}", *lines])
    yield "    ```\n"


def section(schema: type, prefix: str, level: int = 3) -> Iterator[str]:
    """Yield the table of a schema class and, below headings of their own, those of the classes in it."""
    yield from table(schema, f"{prefix}.")
    for name, hint in hints(schema).items():
        inner = schema_in(hint)
        if inner is None:
            continue
        of = get_origin(hint)
        place = f"{prefix}.{name}" + (f".{NAMES.get(name, '<name>')}" if of is dict else "[]" if of is list else "")
        anchor = f"{prefix}-{name}".replace(".", "-")
        yield f"\n{'#' * level} {place.replace('<', '&lt;')} {{#{anchor}}}\n"
        yield from section(inner, place, min(level + 1, 4))


def table(schema: type, prefix: str, skip: Collection[str] = ()) -> Iterator[str]:
    """Yield a table of the attributes of a schema class that are keys."""
    help_texts = help_of(schema)
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for field in dataclasses.fields(schema):
        if field.name in skip or field.metadata.get("omegaconf_ignore"):
            continue
        kind = described(hints(schema)[field.name])
        text = help_texts.get(field.name, "")
        yield f"| {code(prefix + field.name)} | {kind} | {default(field)} | {escaped(text)} |"


def hints(schema: type) -> dict[str, Any]:
    """Return the types of a schema class's attributes, in order."""
    return get_type_hints(schema)


def schema_in(hint: Any) -> type | None:
    """Return the schema class that a type is or holds, None for one that holds none."""
    for part in (hint, *get_args(hint)):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def described(hint: Any) -> str:
    """Name a type as a user of YAML would."""
    if hint is Any:
        return "any"
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return "keys"
    arguments = get_args(hint)
    if get_origin(hint) is list:
        return f"list of {described(arguments[0])}"
    if get_origin(hint) is dict:
        return f"{described(arguments[0])}: {described(arguments[1])}"
    if arguments:
        return " or ".join(described(argument) for argument in arguments)
    return {str: "text", int: "integer", float: "number", bool: "true, false"}.get(hint, str(hint))


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of an attribute as YAML writes it."""
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value == "???":
        return "required"
    if dataclasses.is_dataclass(value):
        return "see below"
    if isinstance(value, list):
        plain = [dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item for item in value]
        return code(json.dumps(plain))
    if isinstance(value, str):
        return code(value) if value.isalnum() else code(json.dumps(value))
    return code(json.dumps(value))


def defaults() -> dict[str, str]:
    """Return the option of each group that a run takes where the command line names none."""
    text = (ROOT / "conf" / "config.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): ([\w-]+)$", text, re.MULTILINE))


def code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    return f"<code>{escaped(text)}</code>"


def escaped(text: str) -> str:
    """Return a text for a cell of a table: what stands in backquotes becomes code, all else stands for itself."""
    parts = [html.escape(part, quote=False) for part in text.split("`")]
    signs = {ord(sign): f"&#{ord(sign)};" for sign in "|{}*_[]\\"}  # what Markdown and its extensions would read
    return "".join(
        f"<code>{part.translate(signs)}</code>" if place % 2 else part.translate(signs)
        for place, part in enumerate(parts)
    )


if __name__ == "__main__":
    ARCHITECTURE.write_text(with_files(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
