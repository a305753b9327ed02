"""Commits as folders: what a revision is, that no worktree stays, and whose packages a commit gets."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ab_stub import CELLS, Repository, measure

from harness.measuring.ab import checkout
from harness.measuring.ab.side import SideError
from harness.spec.config import ConfigError


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository(tmp_path)
    monkeypatch.setattr(checkout, "ROOT", repository.root)
    monkeypatch.setenv("STUB_NOTES", str(repository.notes))
    return repository


@pytest.mark.parametrize("revision", ["HEAD", "HEAD~0", "master", "v1"])
def test_a_branch_a_tag_and_an_expression_name_a_commit(repository: Repository, revision: str) -> None:
    repository.git("branch", "--move", "--force", "master")
    repository.git("tag", "-a", "v1", "-m", "annotated")
    assert checkout.commit_of(revision, "--base") == repository.first


@pytest.mark.parametrize("revision", ["nowhere", "--help", "HEAD^5", "HEAD:template.json"])
def test_what_names_no_commit_is_a_usage_error_with_the_option_and_a_way_out(
    repository: Repository, revision: str
) -> None:
    with pytest.raises(ConfigError, match=r"--base: .* names no commit(.|\n)*git fetch"):
        checkout.commit_of(revision, "--base")


def test_an_installed_copy_says_that_it_has_no_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match="installed copy"):
        checkout.commit_of("HEAD", "--base")


def test_a_worktree_holds_the_commit_and_is_gone_afterwards_even_after_an_error(repository: Repository) -> None:
    later = repository.commit({"device": "cpu"})
    trees = []

    def look_and_fail() -> None:
        with checkout.worktree(repository.first) as tree:
            trees.append(tree)
            assert (tree / "behaviour.json").read_text() == "{}"
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        look_and_fail()
    assert not trees[0].is_relative_to(repository.root)
    assert not trees[0].parent.exists()
    assert repository.worktrees == 0
    assert repository.git("rev-parse", "HEAD") == later


def test_the_users_hooks_do_not_run(repository: Repository, tmp_path: Path) -> None:
    hook = repository.root / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    with checkout.worktree(repository.first):
        pass
    assert not (tmp_path / "ran").exists()


def test_worktrees_of_a_killed_gate_are_removed_by_the_next_and_those_of_others_stay(
    repository: Repository, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from harness.measuring.ab import checkout\n"
        "checkout.ROOT = Path(sys.argv[1])\n"
        "with checkout.worktree(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(repository.root), repository.first])
    assert killed.returncode == -signal.SIGKILL
    assert repository.worktrees == 1
    own = tmp_path / "own"
    repository.git("worktree", "add", "--detach", "--quiet", str(own))
    with checkout.worktree(repository.first), checkout.worktree(repository.first):
        assert repository.worktrees == 3
    assert repository.worktrees == 1
    assert own.exists()


def test_equal_dependencies_share_this_interpreter_whatever_their_order_and_comments(repository: Repository) -> None:
    repository.commit({}, constraints__txt="torch==2.13 # a reason\nnumpy==2\n")
    other = repository.commit({}, constraints__txt="# pins\nnumpy==2\n\ntorch==2.13\n")
    with checkout.worktree("HEAD~1") as tree, checkout.worktree(other) as same:
        assert checkout.dependencies_of(tree) == checkout.dependencies_of(same)
        assert checkout.interpreter_of(tree, print) == sys.executable


def test_other_dependencies_get_an_environment_of_their_own_once(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installed: list[list[str]] = []
    monkeypatch.setattr(checkout, "_install", lambda python, wanted, folder: installed.append(wanted))
    monkeypatch.setattr(checkout.venv, "create", lambda folder, **options: folder.mkdir())
    repository.commit({}, constraints__txt="a==2\n")
    with checkout.worktree(repository.first) as tree:
        first = checkout.interpreter_of(tree, lambda text: None)
        assert checkout.interpreter_of(tree, lambda text: None) == first
    assert Path(first).is_relative_to(tmp_path / "cache" / "canvasbench")
    assert len(installed) == 1
    assert "a>=1" in installed[0]


def test_dependencies_that_cannot_be_installed_are_one_message_and_nothing_is_kept(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    head = repository.commit({}, constraints__txt="a==2\n")
    with pytest.raises(SideError, match=r"cannot be installed: .*a>=1") as raised:
        measure(repository, repository.first, head=None)
    assert raised.value.side == "base"
    assert repository.git("rev-parse", "HEAD") == head
    assert not list((tmp_path / "cache" / "canvasbench" / "environments").glob("*/complete"))
    assert repository.worktrees == 0


def test_a_base_without_the_suite_is_no_base_and_says_which(repository: Repository) -> None:
    base = repository.commit({"no_suite": True})
    head = repository.commit({})
    with pytest.raises(SideError, match=f"base {base} .*'stub' is not one of smoke") as raised:
        measure(repository, base, head)
    assert raised.value.side == "base"
    assert not repository.launches
    assert repository.worktrees == 0


def test_a_base_that_does_not_import_is_no_base(repository: Repository) -> None:
    (repository.root / "harness" / "__init__.py").write_text("import nothing_of_that_name\n")
    base = repository.commit({})
    (repository.root / "harness" / "__init__.py").write_text("")
    head = repository.commit({})
    with pytest.raises(SideError, match="No module named 'nothing_of_that_name'"):
        measure(repository, base, head)


def test_a_tree_whose_harness_python_takes_from_elsewhere_is_refused(repository: Repository) -> None:
    """As an installed copy would be taken where a base has no harness folder."""
    repository.git("mv", "harness", "elsewhere")
    base = repository.commit({})
    with pytest.raises(SideError, match=r"cannot be measured|Python takes harness from"):
        measure(repository, base, repository.first)


def test_sides_without_a_common_cell_are_not_compared(repository: Repository) -> None:
    base = repository.commit({"lacks": CELLS[:2]})
    head = repository.commit({"lacks": CELLS[2:]})
    with pytest.raises(SideError, match="none of the cells"):
        measure(repository, base, head)
