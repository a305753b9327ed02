"""The folders of harness/ are its layers: imports point down, and the light ones stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# layer -> the layers of ours that it may import besides itself
ALLOWED = {
    "harness.records": set(),
    "harness.spec": {"harness.records", "engine.config", "engine.cost"},
    "harness.measuring": {"harness.spec", "harness.records", "engine"},
    "harness.analysis": {"harness.spec", "harness.records"},
    "harness.report": {"harness.analysis", "harness.spec", "harness.records"},
}
# What may import the engine's models, and what may import Hydra.
ENGINE_USERS = ("harness/measuring/backends/reference.py", "harness/measuring/profile")
HYDRA_USERS = ("harness/spec/suite.py",)
HEAVY = {"torch", "pynvml", "transformers", "triton"}


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import statement, wherever it stands, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_files(path: Path, modules: dict[str, Path]) -> set[str]:
    return {m for m in imports_of(path) if m in modules and m != name_of(path)}


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    allowed = ALLOWED[layer] | {layer}
    for path in sources(layer.replace(".", "/")):
        ours = {m for m in imports_of(path) if is_in(m, "harness") or is_in(m, "engine")} - {"harness", "engine"}
        wrong = {m for m in ours if not any(is_in(m, a) for a in allowed)}
        assert not wrong, f"{path}: {layer} may not import {sorted(wrong)}"


def test_the_engine_never_imports_the_harness() -> None:
    for path in sources("engine"):
        assert not [m for m in imports_of(path) if is_in(m, "harness")], path


def test_only_the_named_files_import_the_engines_models() -> None:
    light = {"engine", "engine.config", "engine.cost"}
    for path in sources("harness"):
        heavy = {
            m
            for m in imports_of(path)
            if is_in(m, "engine") and not any(m == x or is_in(m, x) for x in light - {"engine"})
        }
        if heavy - {"engine"}:
            assert path.relative_to(ROOT).as_posix().startswith(ENGINE_USERS), f"{path} imports {sorted(heavy)}"


def test_only_the_suite_file_imports_hydra() -> None:
    for path in sources("harness"):
        users = [m for m in imports_of(path) if is_in(m, "hydra") or is_in(m, "omegaconf")]
        assert not users or path.relative_to(ROOT).as_posix() in HYDRA_USERS, path


def test_records_use_the_standard_library_alone() -> None:
    for path in sources("harness/records"):
        outside = {m.split(".")[0] for m in imports_of(path)} - set(sys.stdlib_module_names) - {"harness"}
        assert not outside, f"{path}: {outside}"


@pytest.mark.parametrize("package", ["harness", "engine"])
def test_there_is_no_import_cycle(package: str) -> None:
    modules = {name_of(path): path for path in sources(package)}
    graph = {name: imported_files(path, modules) for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_file_is_too_long_to_read_in_a_sitting() -> None:
    for path in [*sources("harness"), *sources("engine")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path


LIGHT_IMPORTS = {
    "plan": "import harness.cli; harness.cli.main(['plan', 'suite=h100', '-q', '--json'])",
    "help": "import harness.arguments as a; a._parser({'run': '', 'report': ''})",
    "doctor": "import harness.cli; harness.cli.main(['doctor', '-q'])",
    "report layers": "import harness.analysis.analyse, harness.report.frame, harness.records.store",
}


@pytest.mark.parametrize("what", sorted(LIGHT_IMPORTS))
def test_what_runs_on_a_laptop_loads_no_heavy_package(what: str) -> None:
    code = f"import sys\n{LIGHT_IMPORTS[what]}\nprint(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))
    asks_nvml = what in ("plan", "doctor")  # which GPU this is, where it is installed
    heavy = HEAVY - {"pynvml"} if asks_nvml else HEAVY
    assert not loaded & heavy
