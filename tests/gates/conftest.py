"""pytest tests/gates --verdict=FILE: a gate's verdict as an item a rule and cell. Without it nothing is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.analysis.verdict import Verdict

VERDICT: pytest.StashKey[Verdict] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--verdict", metavar="FILE", help="a gate's verdict.json, whose rules become test items")


def pytest_configure(config: pytest.Config) -> None:
    from harness.analysis import verdict
    from harness.records.store import StoreError
    from harness.records.texts import harmless

    path = config.getoption("verdict", None)
    if path is None:
        return
    try:
        config.stash[VERDICT] = verdict.read(Path(path))
    except StoreError as error:
        raise pytest.UsageError(harmless(str(error))) from None


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if VERDICT in config.stash else True


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    return request.config.stash[VERDICT]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from harness.report.gate.entries import entries

    if "entry" in metafunc.fixturenames:
        found = entries(metafunc.config.stash[VERDICT])
        metafunc.parametrize("entry", found, ids=[f"{entry.name}: {entry.label}" for entry in found])
