"""The arguments of engine/api.py, checked: each function raises ValueError with one line, or returns the value ready.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from engine.choices import can_launch
from engine.kernel_step import KERNEL
from engine.kv_cache import KVCache
from engine.model import Model
from engine.request import Request
from engine.sampling import SAMPLERS
from engine.static_cache import StaticCache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_BLOCK_LENGTH = 1024


def known(name: str, value: object, expected: Collection[str]) -> None:
    if value not in expected:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(repr(e) for e in expected)}")


def dtype(value: str | torch.dtype) -> torch.dtype:
    found = DTYPES.get(str(value).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype is {value!r}, expected {' or '.join(repr(d) for d in DTYPES)}")
    return found


def device(value: str | torch.device) -> torch.device:
    try:
        found = torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"device is {value!r}, expected cpu, cuda, or cuda:<index>") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {value!r}, but this torch ({torch.__version__}) sees no CUDA GPU; expected cpu")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {value!r}, expected an index below {torch.cuda.device_count()}")
    return found


def ids(model: Model, name: str, ids_BT: torch.Tensor) -> None:
    if not isinstance(ids_BT, torch.Tensor) or ids_BT.dtype not in (torch.int64, torch.int32):
        kind = ids_BT.dtype if isinstance(ids_BT, torch.Tensor) else type(ids_BT).__name__
        raise ValueError(f"{name} is {kind}, expected a tensor of int64 or int32 token ids")
    if ids_BT.dim() != 2 or ids_BT.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(ids_BT.shape)}, expected (batch, tokens), both at least 1")
    if ids_BT.device.type != model.device.type:
        raise ValueError(f"{name} is on {ids_BT.device}, expected the model's device {model.device}")
    low, high = (int(x) for x in torch.stack(ids_BT.aminmax()).tolist())
    if low < 0 or high >= model.config.vocab_size:
        worst = low if low < 0 else high
        raise ValueError(f"{name} contains id {worst}, expected ids from 0 to {model.config.vocab_size - 1}")


def mask(ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor | None) -> torch.Tensor | None:
    """(B, T) bool, True for real tokens; None when there is no padding, so that no mask need be built."""
    if attention_mask_BT is None:
        return None
    name, shape = "attention_mask_BT", tuple(ids_BT.shape)
    if tuple(attention_mask_BT.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(attention_mask_BT.shape)}, expected that of the ids, {shape}")
    real_BT = attention_mask_BT.to(device=ids_BT.device, dtype=torch.bool)
    row_B = real_BT.int()
    if not bool(real_BT[:, -1].all()) or bool((row_B[:, 1:] < row_B[:, :-1]).any()):
        raise ValueError(f"{name} has padding behind a real token, expected padding on the left and a real last token")
    return None if bool(real_BT.all()) else real_BT


def positions(model: Model, wanted: int, what: str) -> None:
    limit = model.config.max_position_embeddings
    if wanted > limit:
        raise ValueError(f"{what} tokens make {wanted} positions, expected at most {limit} (max_position_embeddings)")


def cache(model: Model, ids_BT: torch.Tensor, given: KVCache) -> None:
    if not isinstance(given, KVCache) or given.config != model.config:
        kind = "of another model" if isinstance(given, KVCache) else type(given).__name__
        raise ValueError(f"cache is {kind}, expected one that encode made for this model")
    if given.batch_size not in (None, ids_BT.shape[0]):
        raise ValueError(f"cache holds a batch of {given.batch_size}, but the ids are a batch of {ids_BT.shape[0]}")
    if isinstance(given, StaticCache) != (model.choices.attention == "kernel"):
        raise ValueError(
            f"cache is a {type(given).__name__}, which does not go with attention={model.choices.attention!r}; "
            "expected one that encode made under this option"
        )
    positions(model, given.length + ids_BT.shape[1], f"{given.length} cached and {ids_BT.shape[1]} new")


def generator(model: Model, given: torch.Generator | None) -> None:
    if given is not None and given.device.type != model.device.type:
        raise ValueError(f"generator is on {given.device}, expected the model's device {model.device}")


def sampler(model: Model, name: str) -> None:
    known("sampler", name, (*SAMPLERS, KERNEL))
    if name == KERNEL and (model.choices.compile == "on" or not can_launch(model.device)):
        raise ValueError(
            "sampler is 'kernel', expected another one: it needs Triton and a CUDA GPU, or Triton's interpreter, and "
            "compile='off'"
        )
    if name == KERNEL and model.choices.compaction == "on":
        raise ValueError("sampler is 'kernel', which does not go with compaction='on'; expected another one")


def can_diffuse(model: Model) -> None:
    if model.config.canvas_length is None:
        raise ValueError("decoding is 'block_diffusion', but this is a Gemma 4 checkpoint; expected 'autoregressive'")


def eos_ids(model: Model, eos: str, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """The ids that end a row; () when they are to be ignored."""
    found = model.config.generation.eos_ids if given is None else (given,) if isinstance(given, int) else tuple(given)
    for i in found if given is not None else ():
        if not _whole(i) or not 0 <= i < model.config.vocab_size:
            raise ValueError(f"eos_ids contains {i!r}, expected ids from 0 to {model.config.vocab_size - 1}")
    return found if eos == "respect" else ()


def at_least(name: str, value: object, least: float) -> None:
    """A whole number when `least` is an int, otherwise any finite one."""
    whole = isinstance(least, int)
    fits = _whole(value) if whole else isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value < float("inf"):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}, expected a {'whole ' if whole else ''}number of at least {least}")


def diffusion(request: Request) -> None:
    if not _whole(request.block_length) or not 1 <= request.block_length <= MAX_BLOCK_LENGTH:
        raise ValueError(f"block_length is {request.block_length!r}, expected a whole number, 1 to {MAX_BLOCK_LENGTH}")
    at_least("num_steps", request.num_steps, 1)
    at_least("stability", request.stability, 0)
    at_least("entropy_bound", request.entropy_bound, 0.0)
    at_least("confidence", request.confidence, 0.0)
    at_least("t_min", request.t_min, 0.0)
    at_least("t_max", request.t_max, request.t_min + 0.0)
    if request.t_max == 0:
        raise ValueError(f"t_max is {request.t_max!r}, expected a number above 0")


def replay(request: Request, batch: int, stopping: str | None) -> None:
    """Whether the drawn steps go with the stopping rule and fit the request."""
    name, steps_BC = "replay_steps_BC", request.replay_steps_BC
    if (steps_BC is not None) != (stopping == "replay"):
        said = "given" if steps_BC is not None else "None"
        raise ValueError(f"{name} is {said}, but stopping is {stopping!r}; expected both or neither of them to replay")
    if steps_BC is None:
        return
    shape = (batch, request.num_canvases)
    if not isinstance(steps_BC, torch.Tensor) or tuple(steps_BC.shape) != shape or steps_BC.is_floating_point():
        found = tuple(getattr(steps_BC, "shape", ())), getattr(steps_BC, "dtype", type(steps_BC).__name__)
        raise ValueError(f"{name} is {found[1]} of shape {found[0]}, expected whole numbers of shape {shape}")
    if int(steps_BC.min()) < 1:
        raise ValueError(f"{name} contains {int(steps_BC.min())}, expected steps of at least 1")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
