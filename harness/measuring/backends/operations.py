"""What one request asks of torch, counted exactly. No clock, so the same on a busy machine.

The counts follow from the code, the cell and torch's version alone, which is what a gate wants of them: one forward
more, or one copy more in a loop, changes them. What torch's dispatcher does not see (raw Triton launches, the replay of
a CUDA graph) is not in them.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.measuring.backends.base import Answer

_MOST_ROWS = 8  # of a batch, of which the tokens are kept: records stay small


class _Counting(TorchDispatchMode):
    """Sees every operation, and every tensor that it makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.moved_bytes = self.peak_bytes = self._bytes = 0
        self._alive: dict[weakref.ref[torch.UntypedStorage], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        out = func(*args, **(kwargs or {}))
        if not _is_view(func):
            touched = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.moved_bytes += sum(leaf.numel() * leaf.element_size() for leaf in touched)
        if not _is_alias(func):
            for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
                # weights that oneDNN packs have no storage that could be asked for
                if isinstance(leaf, torch.Tensor) and not leaf.is_mkldnn:
                    self._made(leaf.untyped_storage())
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        one = weakref.ref(storage, self._gone)
        if one not in self._alive:
            self._alive[one] = storage.nbytes()
            self._bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)

    def _gone(self, one: weakref.ref[torch.UntypedStorage]) -> None:
        self._bytes -= self._alive.pop(one, 0)


@cache
def _is_view(func: Any) -> bool:
    """Whether it touches no element: it returns what it was given, unchanged, seen otherwise."""
    returns = [one.alias_info for one in func._schema.returns]
    return bool(returns) and all(info is not None and not info.is_write for info in returns)


@cache
def _is_alias(func: Any) -> bool:
    """Whether it returns a view of what it was given, or the thing itself."""
    return any(one.alias_info is not None for one in func._schema.returns)


def counted(request: Callable[[], Answer]) -> dict[str, Any]:
    """Of one request.

    torch_operations; torch_flops: of matrix products and attention, by torch's own counter; torch_bytes: every
    operation's inputs read and outputs written once, views left out; forwards: calls of the module that is called most
    often, because a forward calls none of them twice; peak_tensor_bytes: the most that tensors which the request made
    held at once; output_hashes: of each row's useful tokens; output_ids: the tokens of the first eight rows.
    """
    calls: Counter[int] = Counter()
    hook = register_module_forward_pre_hook(lambda module, args: calls.update([id(module)]))
    try:
        with FlopCounterMode(display=False) as flops, _Counting() as seen:
            answer = request()
    finally:
        hook.remove()
    rows = [[int(one) for one in row] for row in answer.output_ids or ()]
    return {
        "torch_operations": seen.operations,
        "torch_flops": flops.get_total_flops(),
        "torch_bytes": seen.moved_bytes,
        "forwards": max(calls.values(), default=0),
        "peak_tensor_bytes": seen.peak_bytes,
        "output_hashes": hashes_of(rows),
        "output_ids": rows[:_MOST_ROWS],
    }


def hashes_of(rows: Sequence[Sequence[int]]) -> list[str]:
    """First 16 hex digits of the SHA-256 of each row's ids as a JSON list."""
    return [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16] for row in rows]
