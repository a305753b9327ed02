"""The GPU as NVML tells it: the real bindings on a fake library, in processes of their own, and what records say of it.

The fake's cards encode reports from the field, not measurements: tests/harness/fake_nvml.c.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from apart import ENVIRONMENT, ROOT
from test_store import ROUND

from harness.measuring.launch import inline
from harness.measuring.telemetry import sampler
from harness.measuring.telemetry.conditions import THROTTLE_REASONS, clock_warnings, conditions_of
from harness.measuring.telemetry.nvml import READINGS, SUPPORTED, Capability
from harness.measuring.telemetry.sample import Sample
from harness.measuring.telemetry.sampler import num_foreign, watching
from harness.records import store
from harness.records.types import Record

HERE = Path(__file__).parent


@lru_cache
def built(folder: Path, *defines: str) -> Path:
    """The folder with a fake libnvidia-ml.so.1."""
    place = folder / ("-".join(d.strip("-") for d in defines) or "new")
    place.mkdir()
    command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", *defines, "-o", str(place / "libnvidia-ml.so.1")]
    subprocess.run([*command, str(HERE / "fake_nvml.c")], check=True)
    return place


def python(library: Path | None, card: str, *args: str, **script: str) -> str:
    env = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{HERE}", "CANVASBENCH_FAKE_NVML": card}
    env |= {f"CANVASBENCH_FAKE_{name}": text for name, text in script.items()}
    env |= {} if library is None else {"LD_LIBRARY_PATH": str(library)}
    command = [sys.executable, str(HERE / "watched_run.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


WORDS = ("0", "1,0", "", "-1", "GPU-fa4e", "GPU-beef", "MIG-fa4e0000-0001")


@lru_cache
def look(folder: Path, card: str, *defines: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(python(built(folder, *defines), card, "look", *WORDS))
    return found


def statuses(folder: Path, card: str, *defines: str) -> dict[str, str]:
    return {name: status for name, (status, _) in look(folder, card, *defines)["gpus"][0]["capabilities"].items()}


def test_a_data_centre_card_gives_every_reading(folder: Path) -> None:
    assert set(statuses(folder, "h100").values()) == {"supported"}
    assert look(folder, "h100")["gpus"][0]["memory"] == [80 << 30, (80 << 30) - (3 << 29), "nvml_v2"]
    assert look(folder, "h100")["gpus"][0]["power_instant_w"] == 655


def test_a_field_that_a_card_does_not_have_is_unsupported_though_the_call_succeeds(folder: Path) -> None:
    without = {name for name, status in statuses(folder, "geforce").items() if status != "supported"}
    assert without == {"power_instant_w"}


def test_a_card_that_shares_the_hosts_memory_has_the_hosts_memory_and_says_so(folder: Path) -> None:
    total, free, source = look(folder, "gb10")["gpus"][0]["memory"]
    assert source == "proc_meminfo"
    assert total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= total
    assert look(folder, "gb10")["environment"]["memory_bytes"] == total


def test_a_mig_instance_is_seen_in_place_of_its_card_with_its_own_memory_and_the_cards_sensors(folder: Path) -> None:
    gpu = look(folder, "mig")["gpus"][0]
    assert (gpu["uuid"], gpu["is_mig"]) == ("MIG-fa4e0000-0001", True)
    assert gpu["memory"][0] == 10 << 30
    assert gpu["capabilities"]["sm_clock_mhz"] == ["supported", None]


def test_a_card_that_was_lost_gives_errors_with_their_reason_and_no_memory_of_the_hosts(folder: Path) -> None:
    gpu = look(folder, "broken")["gpus"][0]
    assert set(statuses(folder, "broken").values()) == {"error"}
    assert all(reason for _, reason in gpu["capabilities"].values())
    assert gpu["memory"] == [None, None, "nobody"]


def test_calls_that_an_old_driver_lacks_are_unsupported_and_have_their_older_form_where_there_is_one(
    folder: Path,
) -> None:
    found = statuses(folder, "h100", "-DWITHOUT_NEW_CALLS")
    without = {name for name, status in found.items() if status == "unsupported"}
    assert without == {"memory_v2", "energy_mj", "compute_pids"}
    assert found["throttle_bits"] == "supported"
    assert look(folder, "h100", "-DWITHOUT_NEW_CALLS")["gpus"][0]["memory"][2] == "nvml_v1"


@pytest.mark.parametrize(
    ("card", "uuid", "naming"),
    [
        ("h100", "GPU-fa4e0000-0000", {"0", "GPU-fa4e"}),
        ("mig", "MIG-fa4e0000-0001", {"0", "GPU-fa4e", "MIG-fa4e0000-0001"}),
    ],
)
def test_the_gpu_is_the_one_that_cuda_visible_devices_leaves(
    folder: Path, card: str, uuid: str, naming: set[str]
) -> None:
    left = look(folder, card)["left_by"]
    assert {word: uuids for word, uuids in left.items() if uuids} == {word: [uuid] for word in naming}
    assert left.keys() == set(WORDS)


def test_without_a_library_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    found = json.loads(python(tmp_path, "h100", "look"))
    assert found["environment"] is None
    assert found["no_nvml"].startswith("no NVML: ")


def records(library: Path, card: str, run_dir: Path, *words: str, **script: str) -> list[Record]:
    run_dir.mkdir()
    if "WHILE" in script:
        Path(script["WHILE"]).touch()
    python(library, card, "run", str(run_dir), *words, **script)
    found = store.read_records(run_dir).records
    assert [record.status for record in found] == ["ok", "ok"]
    return found


def test_a_quiet_cards_rounds_have_clocks_and_reasons_and_nothing_is_discarded(folder: Path, tmp_path: Path) -> None:
    for record in records(built(folder), "h100", tmp_path / "run"):
        assert (record.discarded, record.warnings) == ((), ())
        for one in record.rounds:
            assert one.clocks_mhz == {"sm": 1980, "sm_min": 1980, "sm_max": 1980, "memory": 2619}
            assert one.throttle_reasons == ("sw_power_cap",)
            assert "shorter than the 10 s" in one.missing["energy_j"]
            assert not one.missing.keys() & {"clocks_mhz", "throttle_reasons"}


def test_rounds_under_heat_are_discarded_and_repeated_until_it_is_gone(folder: Path, tmp_path: Path) -> None:
    while_hot = {"THROTTLE": "0x44", "WHILE": str(tmp_path / "hot")}
    found = records(built(folder), "h100", tmp_path / "run", "protocol.max_discards=100", **while_hot)
    discarded = [reason for record in found for reason in record.discarded]
    assert set(discarded) == {"throttled (hw_thermal_slowdown)"}
    assert all(one.throttle_reasons == ("sw_power_cap",) for record in found for one in record.rounds)
    assert all([one.index for one in record.rounds] == [0, 1, 2] for record in found)


def test_when_the_discards_are_used_up_rounds_are_kept_with_a_warning(folder: Path, tmp_path: Path) -> None:
    words = ("protocol.max_discards=1", "protocol.rounds=2")
    library = built(folder, "-DWITHOUT_NEW_CALLS")  # whose throttle reasons are asked by their older name
    for record in records(library, "h100", tmp_path / "run", *words, THROTTLE="0x80"):
        assert record.discarded == ("throttled (hw_power_brake_slowdown)",)
        assert record.warnings == ("rounds throttled (hw_power_brake_slowdown) are kept: the discards were used up",)
        assert [one.throttle_reasons for one in record.rounds] == [("hw_power_brake_slowdown",)] * 2
        assert record.rounds[0].missing["energy_j"].startswith("energy_mj is unsupported: ")


def test_rounds_beside_a_foreign_process_are_discarded(folder: Path, tmp_path: Path) -> None:
    words = ("protocol.max_discards=1", "protocol.rounds=1")
    for record in records(built(folder), "h100", tmp_path / "run", *words, PID="1", NO_ENERGY="1"):
        assert record.discarded == ("beside a foreign process on the GPU",)
        assert record.warnings
        assert record.rounds[0].missing["energy_j"] == "energy_mj is unsupported: Not Supported"


def test_a_changed_clock_is_a_warning_and_a_counter_that_starts_again_gives_no_energy(
    folder: Path, tmp_path: Path
) -> None:
    script = {"CLOCK": "1900", "WHILE": str(tmp_path / "slow"), "ENERGY_RESET": "1"}
    for record in records(built(folder), "h100", tmp_path / "run", **script):
        assert "the SM clock changed by more than 2% within a launch" in record.warnings
        assert "the energy counter was reset" in {one.missing["energy_j"] for one in record.rounds}
        assert {one.energy_j for one in record.rounds} == {None}


def test_a_card_that_was_lost_leaves_rounds_without_readings_and_with_reasons(folder: Path, tmp_path: Path) -> None:
    for record in records(built(folder), "broken", tmp_path / "run", "protocol.rounds=1"):
        (one,) = record.rounds
        assert (one.clocks_mhz, one.throttle_reasons, one.energy_j) == (None, None, None)
        assert {one.missing[name].split(" is ")[1][:5] for name in ("clocks_mhz", "throttle_reasons", "energy_j")} == {
            "error"
        }


# What samples say, without a library.

ALL = {name: Capability(status=SUPPORTED) for name in READINGS}


def samples(*at_s: float, num_foreign: int = 0, **readings: int) -> list[Sample]:
    seen = {"sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "throttle_bits": 0, "energy_mj": 0, **readings}
    return [Sample(at_s=at, readings=seen, num_foreign=num_foreign) for at in at_s]


def during(begin_s: float, end_s: float, found: list[Sample], **options: Any) -> Any:
    return conditions_of(found, ALL, begin_s=begin_s, end_s=end_s, period_s=0.1, **options)


def test_only_samples_inside_a_round_speak_for_it() -> None:
    hot = samples(1.0, 3.0, throttle_bits=0x40)
    seen = during(1.5, 2.5, sorted([*hot, *samples(2.0)], key=lambda one: one.at_s))
    assert (seen.throttle_reasons, seen.disturbance) == ((), None)


def test_a_round_between_two_samples_has_the_one_before_its_end() -> None:
    seen = during(1.04, 1.06, [*samples(1.0, throttle_bits=0x20), *samples(1.1)])
    assert seen.disturbance == "throttled (sw_thermal_slowdown)"


def test_an_old_sample_speaks_for_no_round() -> None:
    seen = during(9.0, 9.1, samples(1.0))
    assert (seen.clocks_mhz, seen.throttle_reasons, seen.energy_j) == (None, None, None)
    assert seen.missing["throttle_reasons"] == "NVML gave no sample within 0.2 s of the round"


@pytest.mark.parametrize(("bit", "name"), THROTTLE_REASONS.items())
def test_heat_and_the_power_brake_spoil_a_round_and_nothing_else_does(bit: int, name: str) -> None:
    seen = during(0.0, 1.0, samples(0.5, throttle_bits=bit))
    assert seen.throttle_reasons == (name,)
    assert (seen.disturbance is not None) == (bit in (0x8, 0x20, 0x40, 0x80))


def test_a_reading_that_stopped_is_missing_with_that_reason() -> None:
    seen = during(0.0, 1.0, [Sample(at_s=0.5, readings={"sm_clock_mhz": 1980})])
    assert seen.throttle_reasons is None
    assert seen.missing["throttle_reasons"] == "NVML stopped answering"


def test_a_round_that_is_long_enough_has_the_energy_of_all_its_time() -> None:
    found = [one for i in range(101) for one in samples(0.05 + i / 10, energy_mj=70_000 * i)]
    assert during(0.0, 10.1, found).energy_j == pytest.approx(7070)


def test_a_mig_instance_has_no_energy_of_its_own() -> None:
    found = [one for i in range(101) for one in samples(i / 10, energy_mj=70_000 * i)]
    seen = during(0.0, 10.0, found, is_mig=True)
    assert seen.energy_j is None
    assert "MIG" in seen.missing["energy_j"]


@pytest.mark.parametrize(("clocks", "warned"), [((1980, 1950), False), ((1980, 1935), True), ((1980,), False)])
def test_a_clock_may_move_by_two_percent_within_a_launch(clocks: tuple[int, ...], warned: bool) -> None:
    rounds = [during(0.0, 1.0, samples(0.5, sm_clock_mhz=mhz)).noted_in(ROUND) for mhz in clocks]
    assert bool(clock_warnings(rounds)) == warned


def test_our_own_processes_are_not_foreign_and_init_is() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert num_foreign([os.getpid(), child.pid]) == 0
        assert num_foreign([os.getpid(), child.pid, 1]) == 1
    finally:
        child.communicate()


def test_one_process_that_a_container_cannot_see_is_our_worker_unless_that_is_seen() -> None:
    hidden, other = 2**22 + 1, 2**22 + 2  # beyond the largest process id
    assert num_foreign([hidden]) == 0
    assert num_foreign([hidden, other]) == 1
    assert num_foreign([os.getpid(), hidden]) == 1


def test_a_suite_for_a_cpu_is_watched_by_nobody() -> None:
    with watching("cpu") as telemetry:
        seen = telemetry.during(0.0, 1.0)
        assert "telemetry" not in {thread.name for thread in threading.enumerate()}
    assert telemetry.why_not is not None
    assert seen.missing["clocks_mhz"] == telemetry.why_not
    assert (seen.clocks_mhz, seen.disturbance) == (None, None)


def test_an_nvml_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    @contextmanager
    def stuck() -> Iterator[None]:
        release.wait()
        raise sampler.nvml.NoNvml("released")
        yield

    monkeypatch.setattr(sampler.nvml, "opened", stuck)
    monkeypatch.setattr(sampler, "_START_LIMIT_S", 0.01)
    monkeypatch.setattr(sampler, "_STOP_LIMIT_S", 0.01)
    with watching("cuda") as telemetry:
        assert telemetry.during(0.0, 1.0).missing["clocks_mhz"] == "NVML did not answer within 0.01 s"
    release.set()


def test_workers_count_gpus_as_nvml_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Started(Exception): ...

    def start(*args: object, env: dict[str, str], **options: object) -> None:
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        raise Started

    monkeypatch.setattr(inline.subprocess, "Popen", start)
    with pytest.raises(Started):
        inline.InlineWorker({}, tmp_path / "run.log")
