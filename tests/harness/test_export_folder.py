"""Exporting again into one folder: stale files go, and what no export made is never touched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from synthetic import Scenario, write_run

from harness import cli
from harness.records import store
from harness.records.store import StoreError
from harness.report import export_folder
from harness.report.export_folder import CHECKSUMS, replace_files

FIRST = {"summary.md": b"one", "steps-0.svg": b"<svg/>", "steps-1.svg": b"<svg>1</svg>"}
SECOND = {"summary.md": b"two", "steps-0.svg": b"<svg/>"}


def held(folder: Path) -> dict[str, bytes]:
    """Without the checksums, after each of them was compared."""
    for line in (folder / CHECKSUMS).read_text().splitlines():
        checksum, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CHECKSUMS}


def test_a_second_export_leaves_what_a_fresh_one_would(tmp_path: Path) -> None:
    replace_files(tmp_path / "out", FIRST)
    replace_files(tmp_path / "out", SECOND)
    replace_files(tmp_path / "fresh", SECOND)
    assert held(tmp_path / "out") == held(tmp_path / "fresh") == SECOND
    assert (tmp_path / "out" / CHECKSUMS).read_bytes() == (tmp_path / "fresh" / CHECKSUMS).read_bytes()


def test_a_file_that_no_export_made_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.svg").write_bytes(b"mine")
    replace_files(tmp_path, FIRST)
    (tmp_path / "steps-9.svg").write_bytes(b"mine, too")
    (tmp_path / "folder").mkdir()
    replace_files(tmp_path, SECOND)
    assert (tmp_path / "folder").is_dir()
    (tmp_path / "folder").rmdir()
    assert held(tmp_path) == {**SECOND, "notes.svg": b"mine", "steps-9.svg": b"mine, too"}


@pytest.mark.parametrize("name", ["summary.md", "steps-1.svg"])  # to be written again, to be removed
def test_a_file_that_was_edited_since_its_export_stops_the_next_one_before_it_changes_anything(
    tmp_path: Path, name: str
) -> None:
    replace_files(tmp_path, FIRST)
    (tmp_path / name).write_bytes(b"edited by hand")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=f"{name}: is in the way"):
        replace_files(tmp_path, SECOND)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_foreign_file_of_a_needed_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_bytes(b"my summary")
    with pytest.raises(StoreError, match="no export made it"):
        replace_files(tmp_path, FIRST)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.md"]
    assert (tmp_path / "summary.md").read_bytes() == b"my summary"


def test_a_link_or_a_folder_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(FIRST["summary.md"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="in the way"):
        replace_files(tmp_path / "out", FIRST)
    assert (tmp_path / "out" / "summary.md").is_symlink()
    (tmp_path / "other" / "summary.md").mkdir(parents=True)
    with pytest.raises(StoreError, match="in the way"):
        replace_files(tmp_path / "other", FIRST)


@pytest.mark.parametrize("writes", range(5))
def test_after_an_export_that_was_killed_at_any_file_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    replace_files(tmp_path, FIRST)
    real, done = store.write_atomic, []

    def killed_after_some(path: Path, content: str | bytes) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        real(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(export_folder, "write_atomic", killed_after_some)
        if writes < 4:  # checksums, two files, checksums
            with pytest.raises(KeyboardInterrupt):
                replace_files(tmp_path, SECOND)
        else:
            replace_files(tmp_path, SECOND)
    third = {"summary.md": b"three"}
    replace_files(tmp_path, third)
    assert held(tmp_path) == third


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"no checksum\n", b"%s  ../mine\n" % (b"0" * 64), b"%s  ..\n" % (b"0" * 64)]
)
def test_damaged_checksums_are_refused_and_nothing_is_removed(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    replace_files(tmp_path / "out", FIRST)
    (tmp_path / "out" / CHECKSUMS).write_bytes(damage)
    with pytest.raises(StoreError, match=CHECKSUMS):
        replace_files(tmp_path / "out", SECOND)
    assert (tmp_path / "mine").exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FIRST, CHECKSUMS}


def test_exporting_a_smaller_run_over_a_larger_one_leaves_what_that_run_has_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = write_run(tmp_path / "both", Scenario())
    alone = write_run(tmp_path / "alone", Scenario(axes={"decoding": ["autoregressive"]}))

    def export(run_dir: Path, folder: str) -> int:
        words = ["report", str(run_dir), "-q", "-o", str(tmp_path / "p.html"), "--export", str(tmp_path / folder)]
        return cli.main(words)

    assert export(both, "used") == 0
    figures = {path.name for path in (tmp_path / "used").glob("*.svg")}
    assert export(alone, "used") == export(alone, "fresh") == 0
    assert held(tmp_path / "used") == held(tmp_path / "fresh")
    assert figures - {path.name for path in (tmp_path / "used").iterdir()}
    (tmp_path / "used" / "cells.csv").write_text("edited")
    assert export(both, "used") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "cells.csv: is in the way" in said
