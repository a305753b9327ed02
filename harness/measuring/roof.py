"""The roofs of this machine, by a short probe: how fast it reads memory, and how fast it multiplies large matrices.

A data sheet says what the hardware can do, a probe what this machine does now: with its DIMMs, its clocks, its threads
and its neighbours. Both are roofs; a floor says which one it used. The probe takes about two seconds of a worker that
has torch, once a run and environment, before the first load. No torch until then.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil

from harness.records import store
from harness.records.journal import now_utc

ROOF_SCHEMA = 1
_BANDWIDTH_BUDGET_S = _MATMUL_BUDGET_S = 0.4  # of one kind of read, and of one dtype
_LEAST_BYTES, _CACHES = 256 << 20, 4  # the buffer is at least so large, and so many times the largest cache
_MOST_MEMORY_SHARE = 1 / 8  # of what is free
_MATMUL_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_SQUARE_DTYPES = ("float32", "bfloat16")  # float8 has no plain product in torch
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def keep(run_dir: Path, environment_id: str, device_kind: str, dtypes: Collection[str]) -> None:
    """Probe once for all workers of a run on one machine: roof-<environment_id>.json.

    Only where a backend has loaded torch: others compute elsewhere, or nothing at all.
    """
    path = run_dir / f"roof-{environment_id}.json"
    if "torch" not in sys.modules or path.exists():
        return
    import torch

    device = "cpu" if device_kind == "cpu" else "cuda"
    if device == "cpu" or torch.cuda.is_available():  # without one the load is about to say so
        store.write_atomic(path, json.dumps(probe(device, dtypes), indent=1) + "\n")


def probe(device: str, dtypes: Collection[str]) -> dict[str, Any]:
    """Bandwidth and arithmetic rates of "cpu" or "cuda", best of several; `missing` says why one could not be had."""
    import torch

    found: dict[str, Any] = {
        "roof_schema": ROOF_SCHEMA,
        "source": "measured",
        "device": device,
        "threads": torch.get_num_threads(),
        "measured_at": now_utc(),
        "bandwidth_bytes_s": None,
        "flops_s": {},
        "missing": {},
    }
    with torch.inference_mode():
        try:
            found |= _bandwidth(torch.device(device))
        except RuntimeError as error:  # out of memory, or no such device
            found["missing"]["bandwidth_bytes_s"] = str(error).splitlines()[0]
        for dtype in sorted(set(dtypes)):
            try:
                found["flops_s"][dtype] = _matmul_rate(torch.device(device), dtype)
            except (RuntimeError, ValueError) as error:
                found["missing"][f"flops_s.{dtype}"] = str(error).splitlines()[0]
    if device == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _bandwidth(device: Any) -> dict[str, Any]:
    """Of the fastest way to read a buffer that no cache can hold; a copy, which writes as much, counts both."""
    import torch

    size = _buffer_bytes(device)
    read_R = torch.ones(size // 4, device=device)
    table_NM = read_R[: len(read_R) // 4096 * 4096].view(-1, 4096)
    vector_M = torch.ones(4096, device=device)
    written_R = torch.empty_like(read_R)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "sum": (read_R.sum, size),
        "matrix times vector": (lambda: torch.mv(table_NM, vector_M), 4 * table_NM.numel()),
        "copy": (lambda: written_R.copy_(read_R), 2 * size),
    }
    rates = {name: moved / _best_s(run, device, _BANDWIDTH_BUDGET_S / 2) for name, (run, moved) in ways.items()}
    fastest = max(rates, key=lambda name: rates[name])
    return {"bandwidth_bytes_s": rates[fastest], "bandwidth_by": fastest, "buffer_bytes": size}


def _buffer_bytes(device: Any) -> int:
    import torch

    if device.type == "cuda":
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or 0)
        free = torch.cuda.mem_get_info(device)[0]
    else:
        cache, free = _cpu_cache_bytes(), psutil.virtual_memory().available
    return int(min(max(_LEAST_BYTES, _CACHES * cache), free * _MOST_MEMORY_SHARE)) // 4096 * 4096


def _cpu_cache_bytes() -> int:
    """The largest cache that one core sees; 0 where the system does not say."""
    sizes = [0]
    for path in _CPU_CACHES.glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0))
        except (OSError, ValueError):
            continue
    return max(sizes)


def _matmul_rate(device: Any, dtype: str) -> float:
    """FLOPs per second of the size of square matrices that does best."""
    import torch

    if dtype not in _SQUARE_DTYPES:
        raise ValueError(f"no square product in {dtype} to measure")
    best, spent_s = 0.0, 0.0
    for size in _MATMUL_SIZES[device.type]:
        if spent_s > _MATMUL_BUDGET_S:  # a slow dtype is known by its small sizes
            break
        a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
        out = torch.empty_like(a)
        begun = time.perf_counter()
        seconds = _best_s(lambda a=a, out=out: torch.mm(a, a, out=out), device, _MATMUL_BUDGET_S / 3)  # type: ignore[misc]
        spent_s += time.perf_counter() - begun
        best = max(best, 2 * size**3 / seconds)
    return best


def _best_s(run: Callable[[], Any], device: Any, budget_s: float) -> float:
    """The shortest of as many calls as the budget allows, two at least; one before them warms up."""
    import torch

    def timed() -> float:
        if device.type != "cuda":
            begun = time.perf_counter()
            run()
            return time.perf_counter() - begun
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    until = time.perf_counter() + budget_s
    timed()
    times = [timed(), timed()]
    while time.perf_counter() < until:
        times.append(timed())
    return min(times)
