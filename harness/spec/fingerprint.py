"""Hashes that say whether two runs measured the same thing: of the source and of the weights. Standard library only."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from harness.records.types import content_hash
from harness.spec.config import ConfigError, ModelSource

# What can change a measured value. Analysis and report may change without opening a new run.
_MEASURING_SOURCE = ("engine", "harness/records", "harness/spec", "harness/measuring")
_PICKLES = (".bin", ".pt", ".pth")
_SAMPLE_BYTES, _SAMPLES_PER_FILE = 4096, 64


def source_hash() -> str:
    """Hash of every Python and CUDA/Triton source that takes part in measuring."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in _MEASURING_SOURCE:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def weights_hash(source: ModelSource, shape: ModelConfig, seed: int) -> str:
    """Which weights: a preset's shape and seed, or a directory's files.

    A directory's hash covers its JSON files, every safetensors header (names, dtypes, shapes, offsets), every file's
    size, and 64 blocks of 4 KiB spread over each file. That tells checkpoints apart in a second instead of the minutes
    that reading 50 GB takes; it would miss an edit of a few bytes between the sampled blocks.

    Raises:
        ConfigError: the directory holds no readable safetensors file.
    """
    directory = source.directory
    if directory is None:
        return content_hash({"preset": source.preset, "shape": asdict(shape), "seed": seed})
    digest = hashlib.sha256()
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        pickles = sorted(p.name for suffix in _PICKLES for p in directory.glob(f"*{suffix}"))
        found = f"; {pickles[0]} is a pickle, which is never read: convert it to safetensors" if pickles else ""
        raise ConfigError(f"model.path: {directory} holds no *.safetensors file{found}")
    try:
        for path in sorted(directory.glob("*.json")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        for path in paths:
            _sample_file(path, digest)
    except (OSError, ValueError, struct.error) as error:
        raise ConfigError(f"model.path: {path}: cannot be read as safetensors: {error}") from None
    return digest.hexdigest()[:16]


def changed(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Dotted names of what differs between two provenances: what made a new run of the same cells."""
    names = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            names += changed(old, new, f"{path}{key}.")
        elif old != new:
            names.append(f"{path}{key}")
    return names


def _sample_file(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        if header_bytes > size:
            raise ValueError("its header is longer than the file")
        header = file.read(header_bytes)
        json.loads(header)
        digest.update(f"{path.name}\0{size}\0".encode() + header)
        for i in range(_SAMPLES_PER_FILE):
            file.seek(i * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES_PER_FILE - 1))
            digest.update(file.read(_SAMPLE_BYTES))
