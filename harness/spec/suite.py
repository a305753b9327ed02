"""From a suite's name and overrides to one typed SuiteConfig. The only file that imports Hydra.

One compose per command; the grid itself is expanded by harness/spec/plan.py in plain Python.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.spec import data
from harness.spec.check import check
from harness.spec.config import ConfigError, SuiteConfig, check_choice, nearest

_SCHEMA_NAME = "canvasbench_schema"
_SET_BY_US = ("name", "config_dir")
_OPEN = ("options.", "peer_options.")  # whose keys are the backends' own


def compose(overrides: Sequence[str], *, config_dir: str | None = None, backends: Sequence[str]) -> SuiteConfig:
    """The suite that these Hydra overrides name, checked.

    Args:
        overrides: words such as "suite=h100" and "axes.batch_size=[1,4]".
        config_dir: a folder of the user's own suites, laid out like ours, that comes before ours.
        backends: names that `backend` may have.

    Raises:
        ConfigError: an unknown key, group option or value, even behind a leading +.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir: {config_dir} is not a folder")
    for override in _parse(overrides):
        _check_override(override, config_dir)
    ConfigStore.instance().store(name=_SCHEMA_NAME, node=SuiteConfig)
    words = [f"+{word}" if word.startswith(_OPEN) else word for word in overrides]
    if config_dir is not None:
        quoted = str(Path(config_dir).resolve()).replace("\\", "\\\\").replace("'", "\\'")
        words.append(f"hydra.searchpath=['file://{quoted}']")  # Hydra takes the rest as it is, without URL quoting
    try:
        with initialize_config_dir(config_dir=str(data.SUITES_DIR), job_name="canvasbench", **_version_base()):
            composed = hydra_compose(config_name="config", overrides=words, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        names = {group: str(choices[group]) for group in data.GROUPS}
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        _refuse_unknown(OmegaConf.to_container(composed), SuiteConfig, "")
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SuiteConfig), composed))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_one_line(error)) from None
    assert isinstance(config, SuiteConfig)
    config.name, config.config_dir = names["suite"], config_dir
    config.device.name, config.model.name, config.protocol.name = names["device"], names["model"], names["protocol"]
    check(config, prompt_sets=data.prompt_sets(config_dir), backends=backends)
    return config


def to_yaml(config: SuiteConfig) -> str:
    """The composed suite as YAML, for --cfg job and for config.yaml in a run directory."""
    text: str = OmegaConf.to_yaml(OmegaConf.structured(config))
    return text


def _version_base() -> dict[str, str]:
    """Hydra 1.3 warns without version_base, 1.4 deprecates it."""
    major, minor = (int(n) for n in version("hydra-core").split(".")[:2])
    return {"version_base": "1.3"} if (major, minor) < (1, 4) else {}


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed = []
    for word in overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r}: expected KEY=VALUE, for example suite=smoke or axes.batch_size=[1,4]")
        try:
            parsed.append(OverridesParser.create().parse_override(word))
        except (HydraException, ValueError, RecursionError):  # the last two: endless digits, endless brackets
            raise ConfigError(
                f"{_short(word)!r}: cannot be read as KEY=VALUE; quote values that hold spaces or commas"
            ) from None
    return parsed


def _short(word: str) -> str:
    return word if len(word) <= 200 else f"{word[:200]}..."


def _check_override(override: Override, config_dir: str | None) -> None:
    """Refuse what Hydra would take and nobody means: new keys, deletions, sweeps; and name the nearest valid word."""
    key = override.key_or_group
    if override.is_sweep_override():
        raise ConfigError(f"{override.input_line}: a sweep is written as one list, for example axes.batch_size=[1,4]")
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: keys cannot be deleted")
    if key in data.GROUPS:
        option = override.value()
        check_choice(key, str(option), data.options_of(key, config_dir))
    elif not key.startswith(_OPEN):
        _check_key(key)


def _check_key(key: str) -> None:
    kind: Any = SuiteConfig
    path = ""
    for word in key.split("."):
        if not dataclasses.is_dataclass(kind):  # below a dict or a list, whose keys are data
            return
        names = [f.name for f in dataclasses.fields(kind)]
        if word not in names:
            raise ConfigError(
                f"unknown key {key!r}: {path or 'a suite'} has no {word!r}{_nearest_key(word, path, names)}"
            )
        if word in _SET_BY_US:
            raise ConfigError(f"{key!r} cannot be set: it follows from the files and folders that are chosen")
        path = f"{path}.{word}".lstrip(".")
        kind = _field_type(kind, word)


def _nearest_key(word: str, path: str, names: list[str]) -> str:
    if not path:
        names = [*data.GROUPS, *(name for name in names if name not in (*data.GROUPS, *_SET_BY_US))]
    hint = nearest(word, names)
    if not hint and not path:
        axes = [f.name for f in dataclasses.fields(_field_type(SuiteConfig, "axes"))]
        hint = nearest(word, axes).replace(": ", ": axes.")
    return hint or f"; it has {', '.join(names)}"


def _field_type(kind: Any, name: str) -> Any:
    hints = {f.name: f.type for f in dataclasses.fields(kind)}
    return getattr(sys.modules[kind.__module__], str(hints[name]), None)


def _refuse_unknown(container: Any, kind: Any, path: str) -> None:
    """Keys of a YAML file that the schema lacks. Hydra lets a leading + and a group file add them silently."""
    if not dataclasses.is_dataclass(kind) or not isinstance(container, dict):
        return
    names = {f.name for f in dataclasses.fields(kind)}
    for key, value in container.items():
        if key not in names:
            _check_key(f"{path}{key}")
        _refuse_unknown(value, _field_type(kind, key), f"{path}{key}.")


def _one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's message without their internals: the override or the key, then the cause."""
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{str(error.problem_mark).strip()}: {error.problem}"
    lines = str(error).splitlines()
    first = lines[0].removeprefix("Error merging override ").rstrip(".")
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ is not None else ""
    if "is not a ListConfig" in cause:
        cause = "expected a list, for example [1,4]"
    key = next((line.split(": ", 1)[1] for line in lines if line.strip().startswith("full_key: ")), "")
    return ": ".join(part for part in (key if key not in first else "", first, cause) if part)
