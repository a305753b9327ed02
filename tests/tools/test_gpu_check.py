"""tools/gpu_check.sh leaves the whole answer in one folder, within its time, whatever part of it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_check.sh"
MOST_S = 9 * 60


def checked(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CANVASBENCH_GPU_CHECK_PYTHON": sys.executable}
    env |= {f"CANVASBENCH_GPU_CHECK_{name}": value for name, value in variables.items()}
    return subprocess.run(["bash", str(SCRIPT), *words], env=env, capture_output=True, text=True)


def test_a_dry_run_prints_every_command_with_limits_under_nine_minutes_and_writes_nothing(tmp_path: Path) -> None:
    done = checked("--dry-run", str(tmp_path / "out"))
    limits_s = [int(limit) for limit in re.findall(r"^timeout -k 10 (\d+) ", done.stdout, re.MULTILINE)]
    assert done.returncode == 0
    assert "TRITON_INTERPRET=0" in done.stdout
    assert all(f"suite={suite}" in done.stdout for suite in ("engine_ablation_cuda", "gpu_check"))
    assert len(limits_s) >= 5
    assert sum(limits_s) < MOST_S
    assert not (tmp_path / "out").exists()


def test_on_a_cpu_a_failing_part_is_named_and_the_later_ones_leave_their_records(tmp_path: Path) -> None:
    tiny = "model=tiny axes.batch_size=[1] axes.block_length=[16] axes.num_steps=[2] axes.prompt_tokens=[8]"
    tiny += " axes.output_tokens=[16] protocol=once axes.weight_dtype=[float32] axes.activation_dtype=[float32]"
    tiny += " axes.kv_dtype=[float32] axes.head_dtype=[float32] exclude=[]"
    done = checked(str(tmp_path), DEVICE="cpu", WORDS=tiny, TESTS="tests/there_is_none.py", SUITES="gpu_check")
    summary = (tmp_path / "summary.txt").read_text()
    assert done.returncode == 1
    assert re.search(r"^tests +failed with", summary, re.MULTILINE)
    assert re.search(r"^gpu_check +ok", summary, re.MULTILINE), (tmp_path / "gpu_check.log").read_text()
    assert list(tmp_path.glob("gpu_check/*/records-*.jsonl"))
    assert (tmp_path / "gpu_check.html").exists()
    assert "torch==" in (tmp_path / "packages.log").read_text()
    assert "checks" in (tmp_path / "doctor.log").read_text()
