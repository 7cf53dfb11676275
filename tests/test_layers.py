"""A folder imports only from those before it in the list, `support` and `errors`: the list is the order of a row."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "zerogen"
# Above all of them stands what is typed or imported: cli, jobs, dryrun, predict, measure, table, api.
ORDER = ["support", "config", "data", "plm", "generation", "tam", "metrics", "estimate", "runs", "measures", "report"]


def imports(node: ast.AST) -> Iterator[str]:
    """Yield the folder, or top-level module, of what is imported anywhere in a file, but for its type hints alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module is not None:
            first, *rest = child.module.split(".")
            if first == "zerogen":
                yield from rest[:1] or (alias.name for alias in child.names)
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[1] for alias in child.names if alias.name.startswith("zerogen."))
        yield from imports(child)


def test_no_folder_imports_from_one_after_it() -> None:
    upwards = []
    for place, folder in enumerate(ORDER):
        paths = sorted((SOURCE / folder).rglob("*.py")) or [SOURCE / f"{folder}.py"]
        for path in paths:
            names = set(imports(ast.parse(path.read_text(encoding="utf-8"))))
            upwards += [f"{path.relative_to(SOURCE)}: {name}" for name in names - {"errors", *ORDER[: place + 1]}]
    assert upwards == []
    assert {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"__pycache__"} == set(ORDER) - {"estimate"}
