"""What a profiler sees, recorded by a tool of our own in a process of its own.

To accept a deliberate change of the golden trees: CANVASBENCH_UPDATE_GOLDEN=1 pytest tests/engine/test_ranges.py
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import shutil
import subprocess
import sys
import timeit
from pathlib import Path
from typing import Any

import pytest

from engine import ranges

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GOLDEN = HERE.parent / "golden"


def nvtx_headers() -> Path | None:
    """The include folder of the nvidia-nvtx wheel, which holds nvtx3/nvToolsExt.h."""
    try:
        files = importlib.metadata.files("nvidia-nvtx") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(f.locate())) for f in files if f.name == "nvToolsExt.h" and f.parent.name == "nvtx3"]
    return found[0].parent.parent if found else None


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nvtx")
    compiler, headers = shutil.which("gcc") or shutil.which("cc"), nvtx_headers()
    if compiler is None:
        pytest.skip("no C compiler (gcc) for the NVTX recorder")
    if headers is None:
        pytest.skip("no NVTX headers: pip install nvidia-nvtx")
    library = tmp_path_factory.mktemp("nvtx") / "librecorder.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", f"-I{headers}", "-o", str(library)]
    built = subprocess.run([*command, str(HERE / "nvtx_recorder.c")], capture_output=True, text=True)
    if built.returncode != 0:
        pytest.skip(f"the NVTX recorder does not compile: {built.stderr.strip()[:500]}")
    return library


@pytest.fixture(scope="session")
def events(recorder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the recorder saw of our domain in a process that ran every scenario at every level."""
    out = tmp_path_factory.mktemp("events") / "events.jsonl"
    environment = {k: v for k, v in os.environ.items() if k != "NVTX_DISABLE"}
    environment |= {"NVTX_INJECTION64_PATH": str(recorder), "NVTX_RECORDER_OUT": str(out), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / "nvtx_traced.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in out.read_text().splitlines()]
    return [e for e in seen if e.get("domain") == ranges.DOMAIN_NAME]


def scenario(events: list[dict[str, Any]], name: str) -> str:
    """The tree of ranges inside the range of this name."""
    whole = tree(events).splitlines(keepends=True)
    begin = whole.index(f"{name} [harness]\n")
    inside = itertools.takewhile(lambda line: line.startswith("  "), whole[begin + 1 :])
    return "".join(line[2:] for line in inside)


def tree(events: list[dict[str, Any]]) -> str:
    """Indented ranges with category and payload; fails unless pushes and pops balance."""
    categories = {e["id"]: e["name"] for e in events if e["event"] == "category"}
    lines, depth = [], 0
    for e in events:
        if e["event"] == "push":
            payload = "" if e["payload"] is None else f" {e['payload']}"
            lines.append(f"{'  ' * depth}{e['name']}{payload} [{categories[e['category']]}]")
            depth += 1
        elif e["event"] == "pop":
            depth -= 1
            assert depth >= 0, "a range was popped that nobody had pushed"
    assert depth == 0, f"{depth} ranges were left open"
    return "".join(line + "\n" for line in lines)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_a_request_shows_the_golden_tree_of_ranges(events: list[dict[str, Any]], decoding: str, level: int) -> None:
    seen = scenario(events, f"{decoding}.{level}")
    golden = GOLDEN / f"nvtx_level{level}_{decoding}.txt"
    if os.environ.get("CANVASBENCH_UPDATE_GOLDEN") == "1":
        golden.write_text(seen)
    assert seen == golden.read_text()


def test_ranges_balance_when_the_model_raises(events: list[dict[str, Any]]) -> None:
    assert scenario(events, "raises.3").splitlines()[-1].strip() == "mlp 1 [op]"


def test_ranges_inside_a_compiled_function_break_no_graph_and_emit_nothing(events: list[dict[str, Any]]) -> None:
    assert scenario(events, "compiled.3") == ""


def test_categories_are_numbered_in_a_fixed_order(events: list[dict[str, Any]]) -> None:
    names = {e["id"]: e["name"] for e in events if e["event"] == "category"}
    assert names == dict(enumerate(ranges.CATEGORIES, start=1))


def test_every_name_is_free_of_profiler_filter_syntax() -> None:
    names = [r.name for r in vars(ranges).values() if isinstance(r, ranges.Range)]
    assert len(names) == len(set(names)) == 27
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)


def test_a_level_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="range level is 4, expected 0, 1, 2 or 3"):
        ranges.set_level(4)


def test_a_range_without_a_listener_costs_little_more_than_an_empty_context_manager() -> None:
    class Empty:
        def __call__(self, payload: int) -> Empty:
            return self

        def __enter__(self) -> None:
            pass

        def __exit__(self, *exception: object) -> None:
            pass

    empty = Empty()
    ours, plain = (
        min(timeit.repeat("with r(1): pass", globals={"r": r}, number=20_000)) for r in (ranges.REQUEST, empty)
    )
    assert ours < 10 * plain
