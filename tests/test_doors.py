"""Names that stand for code: a table's line, or a module:attribute of the user's own."""

from pathlib import Path

import pytest

from zerogen.errors import UserError
from zerogen.support.doors import call, fingerprint, load

TABLE = {"join": "os.path.join", "counter": "collections.Counter"}


@pytest.fixture
def own(own_modules: Path) -> Path:
    path = own_modules / "my_own_doors.py"
    path.write_text("def twice(x):\n    return 2 * x\n")
    (own_modules / "my_broken_doors.py").write_text("import nothing_of_that_name\n")
    (own_modules / "my_wrong_doors.py").write_text("def twice(x:\n")
    return path


def test_a_name_is_a_line_of_the_table_or_an_attribute_of_a_module(own: Path) -> None:
    assert load("key", "join", TABLE)("a", "b") == str(Path("a/b"))
    assert load("key", "my_own_doors:twice", TABLE)(4) == 8
    assert load("key", "collections:OrderedDict", TABLE)() == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jion", "key: 'jion' is unknown; allowed: join, counter, your own module:attribute; did you mean 'join'?"),
        ("my_own:twice", "key=my_own:twice: there is no module 'my_own', here or installed"),
        ("my_own_doors:twise", "key=my_own_doors:twise: attribute: 'twise' is unknown; allowed: twice"),
        ("my_broken_doors:f", "key=my_broken_doors:f: my_broken_doors cannot be imported: No module named"),
        ("my_wrong_doors:f", "key=my_wrong_doors:f: my_wrong_doors cannot be imported: SyntaxError"),
    ],
)
def test_what_stands_for_nothing_is_refused_in_one_line(own: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load("key", name, TABLE)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_fingerprint_of_an_own_function_follows_its_file(own: Path) -> None:
    before = fingerprint("my_own_doors:twice")
    assert before == fingerprint("my_own_doors:twice") and before.startswith("my_own_doors:twice@")
    own.write_text("def twice(x):\n    return x + x\n")
    assert fingerprint("my_own_doors:twice") != before
    assert fingerprint("join") == "join"


def test_what_own_code_raises_is_one_line_with_its_place(own: Path) -> None:
    own.write_text("def half(x):\n    y = x / 0\n    return y\n")
    half = load("key", "my_own_doors:half", TABLE)
    with pytest.raises(UserError, match=r"^key=my_own_doors:half: raised ZeroDivisionError: .* \(my_own_doors.py:2\)$"):
        call("key", "my_own_doors:half", half, 4)
    with pytest.raises(UserError, match="^ours$"):
        call("key", "my_own_doors:half", refuse)
    assert call("key", "my_own_doors:half", max, 1, 2) == 2


def test_what_the_code_of_a_table_raises_stays_what_it_is(own: Path) -> None:
    own.write_text("def half(x):\n    return x / 0\n")
    with pytest.raises(ZeroDivisionError):
        call("key", "half", load("key", "my_own_doors:half", TABLE), 4)


def refuse() -> None:
    raise UserError("ours")
