"""What backends on torch share: prompts as ids, the tokenizer that grades, times of a device, errors under our names.

Backends that take their prompts from here answer the same ids from the same seed. Legend: B batch, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch

from engine.config import ModelConfig
from harness.measuring.backends.base import DeviceBroken, OutOfMemory, Unsupported
from harness.records.types import Cell
from harness.spec.config import ConfigError, DeviceConfig

_DTYPES = ("float32", "bfloat16")
FLOAT8 = "float8_e4m3"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Prompts:
    """B rows of T prompt ids on the device; False in the mask where a row is padded, which is on its left."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The checkpoint's tokenizer as grading sees it."""

    own: Any
    eos_ids: tuple[int, ...]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.own.decode(ids, skip_special_tokens=True))

    def tokens(self, text: str) -> list[int]:
        return list(_tokens(self.own, text))


def device_of(device: DeviceConfig) -> torch.device:
    return torch.device("cpu" if device.kind == "cpu" else "cuda")


def check_asked(cell: Cell, options: Sequence[str], who: str, *, float8_weights: bool = False) -> None:
    """Raises Unsupported for dtypes that differ between parts or are not torch's usual ones, and for other options.

    float8_weights: it can also hold its weights, and nothing else, in float8_e4m3.
    """
    dtypes = {cell.activation_dtype, cell.kv_dtype, cell.head_dtype}
    known = (*dtypes, FLOAT8) if float8_weights else (*dtypes,)
    if len(dtypes) > 1 or cell.activation_dtype not in _DTYPES or cell.weight_dtype not in known:
        more = f", or {FLOAT8} for the weights alone" if float8_weights else ""
        asked = f"{cell.weight_dtype} for weights, {', '.join(sorted(dtypes))} for the rest"
        raise Unsupported(f"{who} runs one dtype for all parts, {' or '.join(_DTYPES)}{more}; asked: {asked}")
    unknown = set(cell.options) - set(options)
    if unknown:
        raise Unsupported(f"{who} has no option {sorted(unknown)[0]!r}; it has {', '.join(sorted(options))}")


def prompts_of(
    cell: Cell, texts: tuple[str, ...], seed: int, tokenizer: Any, config: ModelConfig, device: torch.device
) -> Prompts:
    """The prompts of one request: the texts, or seeded random ids where there are none.

    Raises:
        ConfigError: texts for a model without a tokenizer, or with one that does not fit.
    """
    if texts:
        ids_BT, mask_BT = _text_ids(cell.prompt_tokens, texts, tokenizer, config)
    else:
        generator = torch.Generator().manual_seed(seed)
        ids_BT = torch.randint(config.vocab_size, (cell.batch_size, cell.prompt_tokens), generator=generator)
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    return Prompts(ids_BT.to(device), mask_BT.to(device))


def _text_ids(
    length: int, texts: tuple[str, ...], tokenizer: Any, config: ModelConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts cut, or padded on the left, to so many tokens."""
    if tokenizer is None:
        raise ConfigError("model: has no tokenizer.json, so it can only take axes.prompt_set=[random]")
    own = config.generation
    start = [] if own.bos_id is None else [own.bos_id]
    rows = [[*start, *_tokens(tokenizer, text)][:length] for text in texts]
    if not all(rows):
        raise ConfigError("model: its tokenizer.json gives no token for a prompt; it does not fit")
    largest = max(max(row) for row in rows)
    if largest >= config.vocab_size:
        raise ConfigError(
            f"model: its tokenizer gives id {largest}, but the vocabulary has {config.vocab_size}; it does not fit"
        )
    ids_BT = torch.tensor([[own.pad_id] * (length - len(row)) + row for row in rows])
    padding_B = torch.tensor([length - len(row) for row in rows])
    return ids_BT, torch.arange(length) >= padding_B[:, None]


@lru_cache(maxsize=1024)  # all cells of a group ask the same prompts, and rounds ask them again
def _tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text in the middle of a sequence."""
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def useful_ids(output_ids: torch.Tensor, useful_tokens: Sequence[int]) -> list[Any]:
    """Each row's useful ids on the host."""
    return [row[:count] for row, count in zip(output_ids.cpu().numpy(), useful_tokens, strict=True)]


def timed_on(device: torch.device, request: Callable[[], _T]) -> tuple[_T, dict[str, Any]]:
    """What the request gave, and those fields of an `Answer` that say what it took of the device."""
    if device.type == "cpu":
        with device_errors():
            out = request()
        missing = {
            "device_s": "the CPU has no device events; wall_s is the time",
            "peak_allocated_bytes": "torch does not count allocations on the CPU; peak_device_bytes is the process",
        }
        return out, {"device_s": None, "missing": missing}
    with device_errors():
        torch.cuda.reset_peak_memory_stats(device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        out = request()
        end.record()
        end.synchronize()
        device_s = begin.elapsed_time(end) / 1000
    return out, {
        "device_s": device_s,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


@contextmanager
def device_errors() -> Iterator[None]:
    """Out of memory on the device or the host, and a broken device, under our names for them."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error).splitlines()[0]) from None
    except torch.AcceleratorError as error:  # whatever it was, this process cannot use the device any more
        raise DeviceBroken(str(error).splitlines()[0]) from None
    except MemoryError:
        raise OutOfMemory("the host has no memory left") from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):  # torch's host allocator
            raise OutOfMemory(str(error).splitlines()[0]) from None
        raise
