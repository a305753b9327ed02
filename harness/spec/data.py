"""Our own data files: which suites there are, and the prompts. YAML is read by safe_load alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.spec.config import ConfigError

SUITES_DIR = Path(__file__).resolve().parents[2] / "suites"  # beside harness/ in a checkout and in site-packages alike
GROUPS = ("suite", "device", "model", "protocol")
RANDOM_IDS = "random"  # the prompt set without a file: labelled random token ids, for fixed steps only


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """The texts of one set in file order; `content_hash` identifies them in run_id."""

    name: str
    texts: tuple[str, ...]
    content_hash: str


def search_path(config_dir: str | None) -> list[Path]:
    """Where suites and prompts are looked for: the user's own folder first, then ours."""
    return [*([Path(config_dir)] if config_dir else []), SUITES_DIR]


def options_of(group: str, config_dir: str | None = None) -> list[str]:
    """Names that a config group offers, sorted."""
    return sorted({p.stem for root in search_path(config_dir) for p in (root / group).glob("*.yaml")})


def prompt_sets(config_dir: str | None = None) -> list[str]:
    """Names of all prompt sets, the random one included."""
    return sorted(
        {p.stem for root in search_path(config_dir) for p in (root / "prompts").glob("*.jsonl")} | {RANDOM_IDS}
    )


def load_prompts(name: str, config_dir: str | None = None) -> PromptSet:
    """Read one prompt set.

    Raises:
        ConfigError: no such file, or a line that is not {"id": text, "text": text}; the message names the line.
    """
    if name == RANDOM_IDS:
        return PromptSet(name=name, texts=(), content_hash="random-ids-1")
    path = next((p for root in search_path(config_dir) if (p := root / "prompts" / f"{name}.jsonl").is_file()), None)
    if path is None:
        raise ConfigError(f"prompt set {name!r}: no such file; there are {', '.join(prompt_sets(config_dir))}")
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    texts = tuple(_prompt_text(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
    if not texts:
        raise ConfigError(f"{path}: holds no prompt")
    return PromptSet(name=name, texts=texts, content_hash=hashlib.sha256(content).hexdigest()[:16])


def _prompt_text(path: Path, number: int, line: str) -> str:
    where = f"{path}:{number}"
    try:
        prompt = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not JSON: {error}") from None
    if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str) or not prompt["text"].strip():
        raise ConfigError(f'{where}: expected {{"id": "...", "text": "..."}} with a text that is not empty')
    text: str = prompt["text"]
    return text


def nvml_names(config_dir: str | None = None) -> list[tuple[str, list[str]]]:
    """(name, NVML product names) of every device file that can be read."""
    found = []
    for name in options_of("device", config_dir):
        path = next(p for root in search_path(config_dir) if (p := root / "device" / f"{name}.yaml").is_file())
        try:
            device = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(device, dict):
            found.append((name, [str(n) for n in device.get("nvml_names") or []]))
    return found
