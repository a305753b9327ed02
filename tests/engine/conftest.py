"""Fixtures over the tiny models of oracle.py. Models are shared by all tests: leave them as they are."""

from __future__ import annotations

import os
from typing import Any

import pytest
from oracle import Pair, hf_diffusion, make_pair, twin_of

from engine import api

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other people's deprecations are not ours to fail on; pyproject.toml makes errors of all other warnings."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"))
        # transformers 5.24 renames an argument that 5.23 does not have under its new name
        item.add_marker(pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """DiffusionGemma with soft predictions."""
    return make_pair(tmp_path_factory.mktemp("diffusion"), hf_diffusion())


@pytest.fixture(scope="session")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """DiffusionGemma with predictions certain enough for canvases to settle."""
    return make_pair(tmp_path_factory.mktemp("sharp"), hf_diffusion(seed=1, sharpness=12.0))


@pytest.fixture(scope="session")
def twin(pair: Pair) -> Any:
    return twin_of(pair.hf)


@pytest.fixture(scope="session")
def tiny() -> api.Model:
    return api.load("tiny")
