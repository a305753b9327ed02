"""The GPU files in suites/device: complete, typed, sourced, and honest about what nobody re-read."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.spec.config import DeviceConfig, Figure

DEVICE_DIR = Path(__file__).resolve().parents[2] / "suites" / "device"
FILES = sorted(DEVICE_DIR.glob("*.yaml"))
DEVICES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}

EXPECTED = [
    *("a100", "a100_pcie", "b200", "b300", "cpu", "dgx_spark", "dgx_station", "gb300", "h100", "h100_nvl"),
    *("h100_pcie", "h200", "l4", "l40s", "mi300x", "rtx3090", "rtx4090", "rtx5090", "rtx_pro_6000"),
]
KEYS = {f.name for f in fields(DeviceConfig)} - {"name"}
FIGURE_KEYS = {f.name for f in fields(Figure)}
PLAIN_KEYS = {"display_name", "kind", "form_factor", "nvml_names", "notes"}
GPUS = [name for name in EXPECTED if name != "cpu"]

# Written down a second time, by hand, and not read from the files: the figures that come from memory.
# The whole rows of the RTX 3090 and the H100 NVL do; on the RTX 5090 the halving for fp32 accumulation does.
RECALLED = {
    ("a100", "l2_bytes"),
    ("a100_pcie", "l2_bytes"),
    ("h100", "l2_bytes"),
    ("h100_pcie", "sms"),
    ("h100_pcie", "l2_bytes"),
    ("h100_nvl", "memory_bytes"),
    ("h100_nvl", "bandwidth_bytes_s"),
    ("h100_nvl", "flops_s.bfloat16"),
    ("h100_nvl", "flops_s.float8_e4m3"),
    ("h100_nvl", "sms"),
    ("h100_nvl", "l2_bytes"),
    ("h100_nvl", "tdp_w"),
    ("h200", "l2_bytes"),
    ("b200", "sms"),
    ("b200", "l2_bytes"),
    ("b300", "l2_bytes"),
    ("gb300", "l2_bytes"),
    ("dgx_spark", "l2_bytes"),
    ("rtx3090", "memory_bytes"),
    ("rtx3090", "bandwidth_bytes_s"),
    ("rtx3090", "flops_s.bfloat16"),
    ("rtx3090", "sms"),
    ("rtx3090", "l2_bytes"),
    ("rtx3090", "tdp_w"),
    ("rtx5090", "flops_s.bfloat16"),
    ("rtx5090", "flops_s.float8_e4m3"),
    ("l4", "sms"),
    ("l4", "l2_bytes"),
    ("l40s", "l2_bytes"),
    ("mi300x", "sms"),
    ("mi300x", "l2_bytes"),
}

# The roofs, also a second time: GB, GB/s, and dense TFLOP/s in bf16, fp8 and fp4 (None: the GPU has no such units).
ROOFS = {
    "a100": (85.899, 2039, 312, None, None),
    "a100_pcie": (85.899, 1935, 312, None, None),
    "h100": (85.899, 3350, 989, 1978, None),
    "h100_pcie": (85.899, 2000, 756.5, 1513, None),
    "h100_nvl": (100.932, 3938, 835, 1671, None),
    "h200": (151.398, 4800, 989, 1978, None),
    "b200": (193.274, 7700, 2250, 4500, 9000),
    "b300": (288.400, 7750, 2250, 4500, 14000),
    "gb300": (298.014, 8000, 2500, 5000, 15000),
    "dgx_station": (252.0, 7100, 2500, 5000, 15000),
    "dgx_spark": (128.0, 273, 125, 250, 500),
    "rtx3090": (25.770, 936, 71, None, None),
    "rtx4090": (25.770, 1008, 165.2, 330.3, None),
    "rtx5090": (34.360, 1792, 209.5, 419, 1676),
    "rtx_pro_6000": (102.642, 1792, 467.8, 935.6, 1871),
    "l4": (25.770, 300, 121, 242, None),
    "l40s": (48.306, 864, 362, 733, None),
    "mi300x": (206.158, 5300, 1307, 2615, None),
}


def figures_of(device: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every figure of a file under its dotted name."""
    found = {key: device[key] for key in device.keys() - PLAIN_KEYS - {"flops_s"}}
    return found | {f"flops_s.{dtype}": figure for dtype, figure in device.get("flops_s", {}).items()}


def test_exactly_the_expected_devices_have_a_file():
    assert [path.stem for path in FILES] == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_has_only_keys_that_the_schema_knows(name):
    device = DEVICES[name]
    assert device.keys() <= KEYS
    for where, figure in figures_of(device).items():
        assert figure.keys() <= FIGURE_KEYS, where


@pytest.mark.parametrize("name", EXPECTED)
def test_every_value_is_a_number_and_names_its_source(name):
    for where, figure in figures_of(DEVICES[name]).items():
        assert type(figure["value"]) in (int, float), where  # 3.35e12 without the plus sign would be a text in YAML
        assert figure["value"] > 0, where
        assert figure["source"].strip(), where


@pytest.mark.parametrize("name", EXPECTED)
def test_no_source_is_a_path_on_somebodys_machine(name):
    text = (DEVICE_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(?:^|[\s\"'])[~/]\w\S*", text) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_files_kind_and_names_are_filled_in(name):
    device = DEVICES[name]
    assert device["display_name"]
    assert device["notes"]
    assert device["kind"] == {"cpu": "cpu", "mi300x": "rocm"}.get(name, "cuda")
    assert bool(device.get("nvml_names")) == (name != "cpu")
    assert bool(device.get("form_factor")) == (name != "cpu")


def test_a_product_name_belongs_to_one_device_only():
    names = Counter(n.casefold() for device in DEVICES.values() for n in device.get("nvml_names", []))
    assert [n for n, count in names.items() if count > 1] == []


def test_the_cpu_has_no_roofs_because_they_must_be_measured():
    assert figures_of(DEVICES["cpu"]) == {}


def test_recalled_marks_exactly_the_figures_from_memory():
    marked = {
        (n, where) for n, device in DEVICES.items() for where, f in figures_of(device).items() if f.get("recalled")
    }
    assert marked == RECALLED


@pytest.mark.parametrize("name", GPUS)
def test_the_roofs_agree_with_a_second_transcription(name):
    device = DEVICES[name]
    memory, bandwidth, bf16, fp8, fp4 = ROOFS[name]
    assert device["memory_bytes"]["value"] / 1e9 == pytest.approx(memory, abs=0.001)
    assert device["bandwidth_bytes_s"]["value"] / 1e9 == pytest.approx(bandwidth)
    wanted = {"bfloat16": bf16, "float8_e4m3": fp8, "float4": fp4}
    rates = {dtype: figure["value"] / 1e12 for dtype, figure in device["flops_s"].items()}
    assert rates == pytest.approx({dtype: rate for dtype, rate in wanted.items() if rate is not None})


def test_bought_machines_and_undated_markets_have_no_price_per_hour():
    unpriced = {name for name, device in DEVICES.items() if "price_usd_per_hour" not in device}
    assert unpriced == {"cpu", "dgx_spark", "dgx_station", "b300", "gb300", "h100_nvl", "mi300x"}
