"""The energy of a CPU's packages, from a folder laid out like Linux's /sys/class/powercap."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest
from test_supervisor import supervise

from harness.measuring import runner
from harness.measuring.telemetry import rapl, sampler
from harness.measuring.telemetry.rapl import Packages
from harness.measuring.telemetry.sample import NoEnergy
from harness.measuring.telemetry.sampler import watching
from harness.records import store

RANGE_UJ = 262_143_328_850


def domain(powercap: Path, number: str, name: str, energy_uj: int = 0) -> Path:
    """A domain's folder; its counter."""
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_their_parts_and_the_platform_are_not(tmp_path: Path) -> None:
    counters = [
        domain(tmp_path, number, name)
        for number, name in (("0", "package-0"), ("1", "package-1"), ("0:0", "core"), ("2", "psys"))
    ]
    packages = Packages(tmp_path)
    for counter, uj in zip(counters, (3_000_000, 4_000_000, 1_000_000, 90_000_000), strict=True):
        counter.write_text(str(uj))
    assert packages.energy_mj() == 7000
    counters[1].write_text("4500000")
    assert packages.energy_mj() == 7500


def test_a_counter_that_has_reached_its_range_goes_on_from_0(tmp_path: Path) -> None:
    counter = domain(tmp_path, "0", "package-0", RANGE_UJ - 999)
    packages = Packages(tmp_path)
    counter.write_text("1000")
    assert packages.energy_mj() == 2.0  # 999 to the top, one to 0, 1000 from there


def test_a_machine_without_packages_says_so(tmp_path: Path) -> None:
    domain(tmp_path, "0", "psys")
    for powercap in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NoEnergy) as caught:
            Packages(powercap)
        assert caught.value.code == "no_rapl"


def test_a_counter_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = domain(tmp_path, "0", "package-0")
    read_text = Path.read_text

    def as_no_root(path: Path, *args: str, **options: str) -> str:
        if path == counter:
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", as_no_root)
    with pytest.raises(NoEnergy, match=r"Permission denied.*root") as caught:
        Packages(tmp_path)
    assert caught.value.code == "rapl_unreadable"


@pytest.mark.parametrize("content", ["", "a lot"])
def test_a_counter_that_holds_no_number_is_unreadable_and_later_on_no_sample(tmp_path: Path, content: str) -> None:
    counter = domain(tmp_path, "0", "package-0")
    packages = Packages(tmp_path)
    counter.write_text(content)
    assert packages.energy_mj() is None
    with pytest.raises(NoEnergy) as caught:
        Packages(tmp_path)
    assert caught.value.code == "rapl_unreadable"


@pytest.fixture
def burning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A powercap whose only package takes 50 W."""
    domain(tmp_path / "powercap", "0", "package-0")
    begun_s, real = time.monotonic(), rapl.Packages.energy_mj

    def moved(packages: Packages) -> float | None:
        uj = int(50e6 * (time.monotonic() - begun_s))
        (tmp_path / "powercap" / "intel-rapl:0" / "energy_uj").write_text(str(uj))
        return real(packages)

    monkeypatch.setattr(rapl.Packages, "energy_mj", moved)
    monkeypatch.setattr(sampler, "PERIOD_S", 0.01)
    monkeypatch.setattr(sampler, "IDLE_S", 0.3)
    return tmp_path / "powercap"


def test_a_window_on_a_cpu_has_the_packages_energy_and_no_cross_check(burning: Path) -> None:
    with watching("cpu", wants_energy=True, powercap=burning) as telemetry:
        assert telemetry.why_not is not None  # of clocks and heat there is nothing all the same
        assert telemetry.measure_idle().startswith("idle power: ")
        begin_s = time.monotonic()
        time.sleep(0.5)
        found = telemetry.energy(begin_s, time.monotonic(), 0.3)
    assert found["power_w"] == pytest.approx(50, rel=0.1)
    assert found["idle_w"] == pytest.approx(50, rel=0.1)
    assert found["missing"]["ratio"] == "the power was not sampled"


def test_nothing_looks_at_packages_unless_a_suite_asks_for_energy(burning: Path) -> None:
    with watching("cpu", powercap=burning):
        assert "telemetry" not in {thread.name for thread in threading.enumerate()}


def test_a_cpu_run_without_rapl_measures_no_window_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "watching", partial(watching, powercap=tmp_path / "absent"))
    caplog.set_level("INFO", "canvasbench")
    supervise(tmp_path, "energy=[{}]", "axes.batch_size=[1]", "axes.num_steps=[2]")
    for record in store.read_records(tmp_path).records:
        assert (record.status, record.energy["reason"], record.energy["num_requests"]) == ("ok", "no_rapl", 0)
        assert "no energy: no_rapl" in caplog.text
        assert record.warnings == (f"energy: none, no_rapl: no RAPL package in {tmp_path / 'absent'}",)


def test_no_idle_power_is_measured_where_no_cell_that_is_due_asks_for_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(sampler.Telemetry, "measure_idle", lambda telemetry: asked.append(telemetry) or "")
    for name in ("none", "due"):
        (tmp_path / name).mkdir()
    supervise(tmp_path / "none", "axes.batch_size=[1]", "axes.num_steps=[2]")
    words = ("energy=[{num_steps: [2]}]", "axes.batch_size=[1]", "axes.num_steps=[2]")
    assert asked == []
    supervise(tmp_path / "due", *words)
    supervise(tmp_path / "due", *words)  # nothing is left to measure
    assert len(asked) == 1
