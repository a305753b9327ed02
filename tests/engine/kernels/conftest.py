"""Kernels run in Triton's interpreter on the CPU, or with TRITON_INTERPRET=0 compiled on a GPU: the same tests."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if os.environ["TRITON_INTERPRET"] == "0" else "cpu")
