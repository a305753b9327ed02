"""Suites as benchmarks (--suite). Where CANVASBENCH_CI is set, a skipped test is a failed one: CI must install what its
tests need."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

# Triton reads it once, when it is imported, which other packages do too. 0 runs the tests of kernels on a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """--suite, without which the plugin does nothing. (pytest_plugins is refused where rootdir is another folder.)"""
    pluginmanager.import_plugin("harness.pytest_suite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_test = item.config.getoption("suite", None) is None  # a cell that a plan leaves out is a result
    if is_test and report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CANVASBENCH_CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {reason}"
    return report
