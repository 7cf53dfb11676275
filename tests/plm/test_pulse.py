"""A process that others cannot see counts as dead only when its pulse has stopped."""

from pathlib import Path

import pytest

from zerogen.plm import pulse
from zerogen.plm.nodes import _FIRST, _Group
from zerogen.plm.pulse import SILENT, Pulse, Watch


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "_LOOK", 0.0)
    monkeypatch.setattr(pulse, "_EVERY", 0.001)


def test_a_pulse_is_seen_as_long_as_it_beats(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    with Pulse(tmp_path, "one"):
        for _ in range(SILENT):
            before = (tmp_path / "one.pulse").read_text() if (tmp_path / "one.pulse").exists() else ""
            while not (tmp_path / "one.pulse").exists() or (tmp_path / "one.pulse").read_text() in ("", before):
                pass
            assert not watch.silent({"one", "never"})
    said = [watch.silent({"one", "never"}) for _ in range(SILENT + 1)]
    assert said[0] == {"never"}
    assert [place for place, found in enumerate(said) if "one" in found][:1] in ([SILENT - 1], [SILENT])
    assert not watch.silent({"one"})  # it may only have been stopped


def test_a_process_that_was_stopped_itself_has_not_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(tmp_path)
    monkeypatch.setattr(pulse, "_LOOK", 1.0)
    now = iter(range(0, 3600 * SILENT, 3600))
    monkeypatch.setattr("zerogen.plm.pulse.time.monotonic", lambda: float(next(now)))
    assert not any(watch.silent({"one"}) for _ in range(SILENT // 2))


def test_a_pulse_ends_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    with Pulse(folder, "one") as one:
        while not (folder / "one.pulse").exists():
            pass
        folder.rename(tmp_path / "gone")
        one._thread.join(timeout=60)
        assert not one._thread.is_alive() and not folder.exists()


def test_a_group_goes_on_without_a_lost_machine_but_not_without_the_first(tmp_path: Path) -> None:
    group = _Group(tmp_path)
    group.first = Watch(tmp_path)
    with Pulse(tmp_path, _FIRST):
        assert group.awaited()
    assert not all(group.awaited() for _ in range(SILENT + 2))
