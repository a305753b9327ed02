"""What sets runs apart, and the cells that several of them measured: those stand side by side and are never merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.analysis.environments import differences, differing, facts_of
from harness.analysis.run_data import Run
from harness.records.types import Environment, Record

_MOST_IN_NAME, _MOST_RUNS = 2, 6


def used_by(run: Run) -> list[Environment]:
    """The environments that the run's final records were measured in, as far as their files are there."""
    used = {record.environment_id for record in run.final.values()}
    return [environment for name, environment in sorted(run.environments.items()) if name in used]


def names_apart(runs: Mapping[str, Run]) -> dict[str, str]:
    """Run id -> what tells the run from others on a device of the same name; "" where the device is name enough."""
    names: dict[str, str] = {}
    for run_id, run in runs.items():
        namesakes = [one for one in runs.values() if one.device_name == run.device_name]
        if len(namesakes) == 1:
            names[run_id] = ""
            continue
        suite = [f"suite {run.suite}"] if len({one.suite for one in namesakes}) > 1 else []
        shard = [f"shard {run.plan['shard']}"] if run.plan.get("shard", "1/1") != "1/1" else []
        others = differing([facts_of(used_by(one)) for one in (run, *(o for o in namesakes if o is not run))])
        told = [f"{path.rsplit('.', 1)[-1]} {values[0][:24]}" for path, values in others.items()]
        names[run_id] = ", ".join([*suite, f"run {run_id}", *shard, *told[:_MOST_IN_NAME]])
    return names


def same_cell_warnings(runs: Mapping[str, Run]) -> list[str]:
    """One warning for each set of runs that measured the same cells: which runs, how many cells, what differs."""
    measured = {run_id: {cell_id for cell_id, _ in run.final} for run_id, run in runs.items()}
    sets: list[list[str]] = []
    for run_id, cells in measured.items():
        touching = [one for one in sets if any(cells & measured[other] for other in one)]
        joined = [other for one in touching for other in one]
        sets = [*(one for one in sets if one not in touching), [*joined, run_id]]
    return [_warning(one, runs, measured) for one in sets if len(one) > 1]


def _warning(run_ids: Sequence[str], runs: Mapping[str, Run], measured: Mapping[str, set[str]]) -> str:
    counts = Counter(cell_id for run_id in run_ids for cell_id in measured[run_id])
    shared = sum(1 for count in counts.values() if count > 1)
    shown = [f"{run_id} ({_environment_names(runs[run_id])})" for run_id in run_ids[:_MOST_RUNS]]
    shown += [f"{len(run_ids) - _MOST_RUNS} more"] if len(run_ids) > _MOST_RUNS else []
    who = f"{', '.join(shown[:-1])} and {shown[-1]}"
    cells = f"{shared:,} cell{' is' if shared == 1 else 's are'} in more than one run"
    told = _what_differs([runs[run_id] for run_id in run_ids])
    return f"{cells}: {who}. They are shown apart and never averaged. {told}"


def _what_differs(runs: Sequence[Run]) -> str:
    if all(_is_copy(run, runs[0]) for run in runs[1:]):
        return "Their records are the same: they are copies of one run"
    environments = [used_by(run) for run in runs]
    if not all(environments):
        return "Whether their environments differ is not known: a file environment-*.json is absent"
    told = differences([facts_of(used) for used in environments])
    return f"The runs differ in {told}" if told else "Identity and stack are the same: one environment, measured again"


def _environment_names(run: Run) -> str:
    names = sorted({record.environment_id for record in run.final.values()})
    return f"environment {', '.join(names)}"


def _is_copy(run: Run, other: Run) -> bool:
    """No two processes measure the same times of the same attempt."""
    return run.final.keys() == other.final.keys() and all(
        _fingerprint(record) == _fingerprint(other.final[key]) for key, record in run.final.items()
    )


def _fingerprint(record: Record) -> tuple[object, ...]:
    walls_s = tuple(one.wall_s for one in record.rounds)
    return record.attempt, record.worker, record.environment_id, record.started_at, walls_s
