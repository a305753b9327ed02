"""The energy of windows of repeated requests: by real supervisors and workers on a fake NVML, and from samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_session import plan_of, run
from test_telemetry import built, python, records

from harness.measuring import cell, session
from harness.measuring.telemetry.energy import energy_of, idle_w_of, warnings_of
from harness.measuring.telemetry.sample import NoEnergy, Sample
from harness.records import store
from harness.records.types import Record
from harness.spec.config import ConfigError
from harness.spec.plan import Plan
from harness.spec.plan_json import to_json
from harness.spec.suite import compose

SHORT = (
    *("protocol.warmup_rounds=0", "protocol.rounds=1", "protocol.max_discards=0", "options.request_s=0.1"),
    *("energy=[{}]", "protocol.energy_window_s=0.3"),
)


def windows(library: Path, card: str, run_dir: Path, **script: str) -> list[Record]:
    return records(library, card, run_dir, *SHORT, **script)


@pytest.mark.parametrize(("card", "watts"), [("h100", 655), ("geforce", 650), ("gb10", 655)])
def test_a_window_has_the_counters_energy_beside_integrated_and_idle_power(
    folder: Path, tmp_path: Path, card: str, watts: float
) -> None:
    for record in windows(built(folder), card, tmp_path / "run"):
        energy = record.energy
        assert energy["window_s"] >= 0.3
        assert energy["energy_j"] == pytest.approx(655 * energy["window_s"], rel=0.1)
        assert energy["integrated_j"] == pytest.approx(watts * energy["window_s"])
        assert energy["ratio"] == energy["integrated_j"] / energy["energy_j"]
        assert energy["idle_w"] == pytest.approx(watts)
        assert energy["num_requests"] >= 3
        assert energy["useful_tokens"] == sum(record.rounds[0].useful_tokens) * energy["num_requests"]
        assert 0.1 * energy["num_requests"] <= energy["requests_s"] <= energy["window_s"]
        assert (energy["throttle_reasons"], energy["missing"], record.warnings) == (["sw_power_cap"], {}, ())


OLD = "-DWITHOUT_NEW_CALLS"
UNKNOWN_CALL = "energy_mj is unsupported: "


@pytest.mark.parametrize(
    ("card", "defines", "script", "reason", "why"),
    [
        ("mig", (), {}, "mig_shared_card", "one MIG instance"),
        ("h100", (), {"NO_ENERGY": "1"}, "no_counter", "energy_mj is unsupported: Not Supported"),
        ("h100", (OLD,), {}, "no_counter", UNKNOWN_CALL),
        ("broken", (), {}, "no_counter", "energy_mj is error: "),
        ("h100", (), {"INIT": "18"}, "no_nvml", "version mismatch"),
    ],
)
def test_where_it_is_known_beforehand_that_there_is_no_energy_no_window_is_measured(
    folder: Path, tmp_path: Path, card: str, defines: tuple[str, ...], script: dict[str, str], reason: str, why: str
) -> None:
    for record in windows(built(folder, *defines), card, tmp_path / "run", **script):
        assert (record.energy["reason"], record.energy["num_requests"]) == (reason, 0)
        assert why in record.energy["why"]
        assert any(reason in warning for warning in record.warnings)


def test_a_library_that_does_not_fit_its_driver_leaves_rounds_that_say_so(folder: Path, tmp_path: Path) -> None:
    for record in windows(built(folder), "h100", tmp_path / "run", INIT="18"):
        missing = record.rounds[0].missing
        reasons = {missing[name] for name in ("clocks_mhz", "throttle_reasons", "energy_j", "gpu")}
        assert reasons == {"no NVML: RM has detected an NVML/RM version mismatch."}  # the binding's own words


@pytest.mark.parametrize(
    ("script", "reason"), [({"PID": "1"}, "foreign_process"), ({"ENERGY_RESET": "1"}, "counter_reset")]
)
def test_what_spoils_a_window_is_its_reason(folder: Path, tmp_path: Path, script: dict[str, str], reason: str) -> None:
    for record in windows(built(folder), "h100", tmp_path / "run", **script):
        assert record.energy["reason"] == reason
        assert record.energy["num_requests"] >= 3
        assert record.rounds[0].gpu["foreign_processes"] == (reason == "foreign_process")  # type: ignore[index]
        assert "energy_j" not in record.energy


def test_a_throttled_window_counts_with_a_warning(folder: Path, tmp_path: Path) -> None:
    for record in windows(built(folder), "h100", tmp_path / "run", THROTTLE="0x40"):
        assert record.energy["throttle_reasons"] == ["hw_thermal_slowdown"]
        assert "energy: the window was throttled (hw_thermal_slowdown)" in record.warnings


def test_a_counter_that_disagrees_with_the_integrated_power_is_a_warning(folder: Path, tmp_path: Path) -> None:
    for record in windows(built(folder), "h100", tmp_path / "run", COUNTER_W="500"):
        assert record.energy["ratio"] == pytest.approx(655 / 500, rel=0.1)
        assert any("disagree by more than 10%" in warning for warning in record.warnings)


def test_a_request_that_hangs_in_a_window_ends_after_the_time_of_a_request(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    words = (*SHORT, "options.fail=hang", "options.fail_stage=energy", "protocol.request_timeout_s=1")
    python(built(folder), "h100", "run", str(tmp_path / "run"), *words)
    ended = [record for record in store.read_records(tmp_path / "run").records if record.status == "timeout"]
    assert [record.reason for record in ended] == ["no answer for 1 s in energy"] * 2


# Rounds

READINGS = {
    "temperature_c_max": 61, "power_w": 655, "power_w_max": 655, "utilisation_percent": 97, "memory_bytes": 1 << 30,
    "foreign_processes": 0,
}  # fmt: skip
LACKING = {
    "h100": {},
    "geforce": {},
    "gb10": {"memory_bytes": "memory_v1 is unsupported"},
    "mig": {
        **dict.fromkeys(("power_w", "power_w_max"), "whole card"),
        "utilisation_percent": "utilisation_percent is unsupported",
    },
    "broken": dict.fromkeys(READINGS, " is error: "),
}


@pytest.mark.parametrize("card", LACKING)
def test_a_round_says_temperature_power_utilisation_and_memory_or_why_not(
    folder: Path, tmp_path: Path, card: str
) -> None:
    power = {"power_w": 650, "power_w_max": 650} if card == "geforce" else {}
    expected = {name: value for name, value in {**READINGS, **power}.items() if name not in LACKING[card]}
    for record in records(built(folder), card, tmp_path / "run", "protocol.rounds=1", "options.request_s=0.1"):
        (one,) = record.rounds
        assert one.gpu == (expected or None)
        assert {name for name in READINGS if f"gpu.{name}" in one.missing} == set(LACKING[card])
        assert all(why in one.missing[f"gpu.{name}"] for name, why in LACKING[card].items())
        assert ("gpu" in one.missing) == (one.gpu is None)


# Which cells, and which requests


def short(monkeypatch: pytest.MonkeyPatch, *words: str) -> Plan:
    """A plan whose windows take 20 ms."""
    monkeypatch.setattr(session, "PERIOD_S", 0.0)
    monkeypatch.setattr(cell, "REPEATS_S", 0.001)
    plan = plan_of(*words)
    plan.config.protocol.energy_window_s = 0.02
    return plan


def test_only_the_cells_that_the_suite_names_have_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = short(monkeypatch, "energy=[{batch_size: [2], num_steps: [4]}]")
    backend = run(plan, tmp_path)
    found = store.read_records(tmp_path).records
    named = {one.cell_id for one in found if one.energy}
    assert {(one.cell.batch_size, one.cell.num_steps) for one in found if one.cell_id in named} == {(2, 4)}
    assert {cell_id for stage, cell_id, _ in backend.calls if stage == "energy"} == named


def test_a_window_repeats_the_requests_of_the_rounds_in_turn_after_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("axes.batch_size=[1]", "axes.num_steps=[2]", "seed=40", "protocol.rounds=3", "options.request_s=0.001")
    backend = run(short(monkeypatch, *words, "energy=[{num_steps: [2]}]"), tmp_path)
    stages = [stage for stage, _, _ in backend.calls]
    assert stages.index("energy") > max(i for i, stage in enumerate(stages) if stage == "measure")
    seeds = [seed for stage, _, seed in backend.calls if stage == "energy"]
    assert len(seeds) > 3
    assert seeds == [40 + i % 3 for i in range(len(seeds))]
    (record,) = (one for one in store.read_records(tmp_path).records if one.energy)
    assert record.energy["num_requests"] == len(seeds)


def test_the_plan_counts_windows_and_says_which_and_they_are_part_of_the_run_id() -> None:
    dtypes = (f"axes.{name}_dtype=[bfloat16]" for name in ("weight", "activation", "kv", "head"))
    words = ("device=h100", "protocol.launches=2", *dtypes)
    without, named = plan_of(*words), plan_of(*words, "energy=[{num_steps: [4]}]")
    for before, after in zip(without.cells, named.cells, strict=True):
        assert before.predicted_s is not None
        assert after.predicted_s == pytest.approx(before.predicted_s + 20 * (after.cell.num_steps == 4))
    assert to_json(named)["energy"] == [{"num_steps": [4]}]
    assert without.run_id != named.run_id


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("protocol.energy_window_s=9.9", "expected at least 10"),
        ("protocol.energy_window_s=nan", "expected at least 10"),
        ("energy=[{batchsize: [1]}]", "nearest valid: batch_size"),
        ("energy=[{batch_size: 1}]", "is not a list of values"),
        ("energy=[{reason: because}]", "'reason' is not one of"),
    ],
)
def test_a_window_that_cannot_be_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([word], backends=["reference"])


# What samples say, without a library


def steady(watts: float, count: int = 121, counter_w: float | None = None, **changes: Any) -> list[Sample]:
    """A look every 0.1 s at constant power."""
    moved = watts if counter_w is None else counter_w
    return [
        Sample(at_s=i / 10, readings={"energy_mj": moved * 100 * i, "power_w": watts, "throttle_bits": 0}, **changes)
        for i in range(count)
    ]


def test_energy_is_that_of_the_whole_window_and_of_nothing_before_or_behind_it() -> None:
    found = energy_of(steady(300), begin_s=1.04, end_s=11.56, least_s=10)
    assert found["energy_j"] == pytest.approx(300 * 10.52)
    assert found["integrated_j"] == pytest.approx(300 * 10.52)
    assert (found["power_w"], found["window_s"]) == (pytest.approx(300), pytest.approx(10.52))


def test_the_power_between_two_looks_is_their_mean() -> None:
    """100 W, 300 W, 100 W a second apart are 400 J in two seconds."""
    looks = [Sample(at_s=i, readings={"energy_mj": i, "power_w": watts}) for i, watts in enumerate((100, 300, 100))]
    assert energy_of(looks, begin_s=0, end_s=2, least_s=1)["integrated_j"] == 400


REFUSED: dict[str, tuple[list[Sample], float]] = {
    "window_too_short": (steady(300), 9.9),
    "no_sample": ([], 10.5),
    "counter_stands_still": (steady(300, counter_w=0), 10.5),
    "counter_reset": ([*steady(300)[:50], *(replace(one, readings={"energy_mj": 1}) for one in steady(1)[50:])], 10.5),
    "foreign_process": ([*steady(300)[:50], *steady(300, num_foreign=1)[50:]], 10.5),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_window_without_energy_has_one_of_the_reasons(reason: str) -> None:
    looks, end_s = REFUSED[reason]
    found = energy_of(looks, begin_s=0, end_s=end_s, least_s=10)
    assert found.keys() == {"reason", "why"}
    assert (found["reason"], bool(found["why"])) == (reason, True)


def test_a_reason_that_is_not_in_the_list_cannot_be_given() -> None:
    with pytest.raises(KeyError):
        NoEnergy("because")


def test_energy_without_sampled_power_is_not_cross_checked_and_says_so() -> None:
    looks = [replace(one, readings={"energy_mj": one.readings["energy_mj"]}) for one in steady(300)]
    found = energy_of(looks, begin_s=0, end_s=12, least_s=10)
    assert "ratio" not in found
    assert found["missing"].keys() == {"integrated_j", "ratio"}
    assert warnings_of(found) == []
    assert idle_w_of(looks, begin_s=0, end_s=5) == pytest.approx(300)


def test_a_gpu_that_another_process_uses_is_not_idle() -> None:
    with pytest.raises(NoEnergy, match="should have been idle"):
        idle_w_of(steady(300, num_foreign=1), begin_s=0, end_s=5)
