"""From a composed suite to a run directory that a supervisor can fill: the plan on this machine, fitness, the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.measuring import doctor, environment
from harness.measuring.fitness import unfit
from harness.measuring.progress import PlainProgress
from harness.measuring.runner import Supervisor
from harness.records import store
from harness.records.types import Environment
from harness.spec import data, fingerprint, suite
from harness.spec import plan as planning
from harness.spec.config import SuiteConfig
from harness.spec.plan import Plan
from harness.spec.plan_json import to_json


def plan_here(config: SuiteConfig) -> tuple[Plan, Environment]:
    """The plan with the run_id that it has on this machine."""
    built = planning.build(config)
    here = environment.collect()
    provenance = {
        "weights_hash": fingerprint.weights_hash(config.model, built.shape, config.seed),
        "source_hash": fingerprint.source_hash(),
        "identity": here.identity,
        "stack": here.stack,
    }
    return planning.identified(built, provenance), here


def why_unfit(plan: Plan, here: Environment) -> str | None:
    """Why nothing of the plan can be measured here; None where something can."""
    config = plan.config
    if reason := unfit(config.device, here, data.nvml_names(config.config_dir)):
        return reason
    if not plan.cells:
        reasons = sorted({skipped.reason for skipped in plan.skipped})
        return "all cells are skipped:\n" + "\n".join(reasons[:3])
    if not plan.own_groups:
        return f"shard={config.shard} is empty: n is at most {len(plan.groups)}, one share a group"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A plan, this machine, and the folder that the records go to."""

    plan: Plan
    words: Sequence[str]  # the Hydra words that the plan was composed of
    run_dir: Path
    environment: Environment

    def measure(self, watcher: PlainProgress) -> None:
        """Measure what the folder does not hold yet; what can go wrong: Supervisor.run."""
        Supervisor(
            plan=self.plan,
            words=self.words,
            run_dir=self.run_dir,
            environment=self.environment,
            progress=watcher,
        ).run()


def open_run(plan: Plan, here: Environment, *, words: Sequence[str], command: str) -> Prepared:
    """Make the plan's run directory, or find it again, and write what a reader of its records needs.

    command: the line that the user typed, for the manifest.

    Raises:
        StoreError: the folder cannot be written.
    """
    config = plan.config
    run_dir = store.open_run_dir(Path(config.results_dir), config.name, plan.run_id, fresh=config.fresh)
    store.write_atomic(run_dir / "config.yaml", suite.to_yaml(config))
    store.write_atomic(run_dir / "plan.json", store.json_lines({**to_json(plan), "command": command}))
    store.write_environment(run_dir, here)
    doctor.attach(run_dir, here, config.device.kind)
    return Prepared(plan=plan, words=words, run_dir=run_dir, environment=here)
