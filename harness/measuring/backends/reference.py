"""The reference engine of this repository as a backend: both decoders on the same weights, in one process."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from engine import api, ranges
from engine.choices import OPTIONS, resolve
from engine.config import ModelConfig
from engine.observe import MOST_ROWS, observe
from engine.routing import Routing, drawn
from harness.measuring.backends.base import Answer, DeviceBroken, OutOfMemory, Unsupported
from harness.records.types import AUTOREGRESSIVE, REPLAY, Cell
from harness.spec import draws
from harness.spec.config import ConfigError, DeviceConfig, ModelSource

_DTYPES = ("float32", "bfloat16")
_FLOAT8 = "float8_e4m3"  # of weights alone
_OPTIONS = {"window", *OPTIONS, *draws.OPTIONS}
_MOST_LOGITS = 2**26  # at once, when answers are scored: 256 MiB in float32
_MARKS = {stage: ranges.Range(f"bench.{stage}", "harness", 1) for stage in ("warmup", "measure", "profile")}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """B rows of T prompt ids on the device, padded on the left, and all that the request draws from."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    generator: torch.Generator
    routing: Routing | None  # None: the router decides
    replay_steps_BC: torch.Tensor | None  # None: nothing is replayed


@dataclass(frozen=True, slots=True)
class _Tokenizer:
    """The checkpoint's tokenizer as grading sees it."""

    own: Any
    eos_ids: tuple[int, ...]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.own.decode(ids, skip_special_tokens=True))

    def tokens(self, text: str) -> list[int]:
        return list(_tokens(self.own, text))


class ReferenceBackend:
    def __init__(self) -> None:
        self._model: Any = None

    def load(self, source: ModelSource, shape: ModelConfig, device: DeviceConfig, cell: Cell, seed: int) -> None:
        dtypes = {cell.activation_dtype, cell.kv_dtype, cell.head_dtype}
        is_float8 = cell.weight_dtype == _FLOAT8
        if len(dtypes) > 1 or cell.activation_dtype not in _DTYPES or cell.weight_dtype not in (*dtypes, _FLOAT8):
            raise Unsupported(
                f"the reference engine runs one dtype for all parts, {' or '.join(_DTYPES)}, or {_FLOAT8} for the "
                f"weights alone; asked: {cell.weight_dtype} for weights, {sorted(dtypes)} for the rest"
            )
        unknown = set(cell.options) - _OPTIONS
        if unknown:
            raise Unsupported(
                f"the reference engine has no option {sorted(unknown)[0]!r}; it has {', '.join(sorted(_OPTIONS))}"
            )
        self._model = None
        gc.collect()
        self._device = torch.device("cpu" if device.kind == "cpu" else "cuda")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with _device_errors():
            try:
                self._model = api.load(
                    source.path or source.preset,
                    device=self._device,
                    dtype=cell.activation_dtype,
                    weights=_FLOAT8 if is_float8 else None,
                    seed=seed,
                    window=cell.options.get("window", "sdpa"),
                )
            except ValueError as error:
                raise ConfigError(f"model: {error}") from None

    def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> _Prepared:
        chosen = {name: str(value) for name, value in cell.options.items() if name in OPTIONS}
        try:
            is_float8 = bool(self._model.float8)
            self._model.choices = resolve(self._device, self._model.dtype, chosen, is_float8=is_float8)
        except ValueError as error:
            raise Unsupported(str(error)) from None
        ids_BT, mask_BT = self._random_ids(cell, seed) if not texts else self._text_ids(cell, texts)
        generator = torch.Generator(device=self._device).manual_seed(seed)
        return _Prepared(
            ids_BT.to(self._device),
            mask_BT.to(self._device),
            generator,
            self._routing(cell, seed),
            self._replay_steps(cell, seed),
        )

    def _routing(self, cell: Cell, seed: int) -> Routing | None:
        weights = draws.expert_weights(cell, self._model.config)
        return None if weights is None else Routing(weights, self._model.config.num_layers, seed, self._device)

    def _replay_steps(self, cell: Cell, seed: int) -> torch.Tensor | None:
        if cell.stopping != REPLAY or cell.num_steps is None or cell.block_length is None:
            return None
        canvases = -(-cell.output_tokens // cell.block_length)
        return torch.tensor(draws.steps_of(cell).draw(cell.batch_size, canvases, cell.num_steps, seed))

    def generate(self, cell: Cell, prepared: _Prepared) -> Answer:
        on_gpu = self._device.type == "cuda"
        device_s, missing = None, {}
        with _device_errors():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(self._device)
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                out = self._request(cell, prepared)
                end.record()
                end.synchronize()
                device_s = begin.elapsed_time(end) / 1000
            else:
                out = self._request(cell, prepared)
        if not on_gpu:
            missing = {
                "device_s": "the CPU has no device events; wall_s is the time",
                "peak_allocated_bytes": "torch does not count allocations on the CPU; peak_device_bytes is the process",
            }
        return Answer(
            device_s=device_s,
            ttfb_s=out.ttfb_s,
            block_s=tuple(out.block_s),
            step_s=tuple(out.step_s),
            passes=dict(out.passes),
            steps_per_canvas=tuple(tuple(row) for row in out.steps_per_canvas.tolist()),
            useful_tokens=tuple(out.useful_tokens.tolist()),
            raw_tokens=out.output_ids.numel(),
            stop_reason=out.stop_reason,
            resolved=self._resolved(cell),
            output_ids=_useful(out),
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device) if on_gpu else None,
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device) if on_gpu else None,
            missing=missing,
        )

    def count(self, cell: Cell, prepared: _Prepared) -> dict[str, Any]:
        with _device_errors(), observe(self._model) as seen:
            out = self._request(cell, prepared)
            output_ids = [row.tolist() for row in _useful(out)]
            nll_nats = self._nll_nats(prepared, out)
        return {
            "kinds": seen.kinds,
            "expert_hits": seen.expert_hits,
            "entropies_nats": seen.entropies,
            "settled_steps": _settled(seen.settled_steps, out, cell.block_length),
            "output_ids": output_ids[:MOST_ROWS],
            "nll_nats": nll_nats,
        }

    def _nll_nats(self, prepared: _Prepared, out: api.Generation) -> list[float]:
        """Each row's mean negative log-likelihood of its useful tokens under the same weights in causal mode."""
        model, B = self._model, len(prepared.ids_BT)
        useful_B1 = out.useful_tokens.to(self._device)[:, None]
        output_Bn = out.output_ids[:, : int(out.useful_tokens.max())]
        # The last prompt token, which is never padding, gives the likelihood of the first output token, and so on.
        given_Bn = torch.cat([prepared.ids_BT[:, -1:], output_Bn[:, :-1]], dim=1)
        cache = model.new_cache(B)
        if prepared.ids_BT.shape[1] > 1:
            api.encode(model, prepared.ids_BT[:, :-1], cache=cache, attention_mask_BT=prepared.mask_BT[:, :-1])
        at_once = max(1, _MOST_LOGITS // (B * model.config.vocab_size))
        nll = []
        for given_BN, output_BN in zip(given_Bn.split(at_once, 1), output_Bn.split(at_once, 1), strict=True):
            logits_BNV = api.causal_logits(model, given_BN, cache=cache)
            nll.append(torch.nn.functional.cross_entropy(logits_BNV.mT, output_BN, reduction="none"))
        nll_Bn = torch.cat(nll, dim=1)
        is_useful_Bn = torch.arange(nll_Bn.shape[1], device=self._device) < useful_B1
        means_B: list[float] = ((nll_Bn * is_useful_Bn).sum(dim=1) / useful_B1[:, 0]).tolist()
        return means_B

    def tokenizer(self) -> _Tokenizer | None:
        own = self._model.tokenizer
        return None if own is None else _Tokenizer(own, self._model.config.generation.eos_ids)

    def mark(self, stage: str, index: int) -> AbstractContextManager[None]:
        return _MARKS[stage](index)

    def _resolved(self, cell: Cell) -> dict[str, str]:
        """What runs, read from the model and not from the request."""
        options = asdict(self._model.choices)
        sampler = options.pop("sampler")
        kernels = {
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "threads": str(torch.get_num_threads()),
            **options,
        }
        if self._model.float8:
            kernels["weights"] = f"{_FLOAT8}: {self._model.float8}"
        diffusion = {"window": self._model.window, "sampler": sampler}
        return kernels if cell.decoding == AUTOREGRESSIVE else {**kernels, **diffusion}

    def _request(self, cell: Cell, prepared: _Prepared) -> api.Generation:
        with drawn(self._model, prepared.routing):
            return self._generated(cell, prepared)

    def _generated(self, cell: Cell, prepared: _Prepared) -> api.Generation:
        return api.generate(  # autoregressive decoding reads none of the arguments that only a canvas has
            self._model,
            prepared.ids_BT,
            decoding=cell.decoding,
            output_tokens=cell.output_tokens,
            attention_mask_BT=prepared.mask_BT,
            eos=cell.eos,
            generator=prepared.generator,
            block_length=cell.block_length,
            num_steps=cell.num_steps,
            stopping=cell.stopping,
            replay_steps_BC=prepared.replay_steps_BC,
        )

    def _random_ids(self, cell: Cell, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (cell.batch_size, cell.prompt_tokens)
        ids_BT = torch.randint(self._model.config.vocab_size, shape, generator=generator)
        return ids_BT, torch.ones_like(ids_BT, dtype=torch.bool)

    def _text_ids(self, cell: Cell, texts: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts cut, or padded on the left, to prompt_tokens."""
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise ConfigError("model: has no tokenizer.json, so it can only take axes.prompt_set=[random]")
        T = cell.prompt_tokens
        generation = self._model.config.generation
        start = [] if generation.bos_id is None else [generation.bos_id]
        rows = [[*start, *_tokens(tokenizer, text)][:T] for text in texts]
        if not all(rows):
            raise ConfigError("model: its tokenizer.json gives no token for a prompt; it does not fit")
        largest = max(max(row) for row in rows)
        if largest >= self._model.config.vocab_size:
            vocab = self._model.config.vocab_size
            raise ConfigError(
                f"model: its tokenizer gives id {largest}, but the vocabulary has {vocab}; it does not fit"
            )
        ids_BT = torch.tensor([[generation.pad_id] * (T - len(row)) + row for row in rows])
        padding_B = torch.tensor([T - len(row) for row in rows])
        return ids_BT, torch.arange(T) >= padding_B[:, None]


@lru_cache(maxsize=1024)  # all cells of a group ask the same prompts, and rounds ask them again
def _tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text in the middle of a sequence."""
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def _useful(out: api.Generation) -> list[Any]:
    """Each row's useful ids on the host."""
    rows = out.output_ids.cpu().numpy()
    return [row[:count] for row, count in zip(rows, out.useful_tokens.tolist(), strict=True)]


def _settled(settled_steps: list[list[list[int]]], out: api.Generation, block_length: int | None) -> list[list[Any]]:
    """Of each canvas and row, the useful positions alone; none where the row took no step, because it had ended."""
    length, useful_B = block_length or 1, out.useful_tokens.tolist()
    took_step_CB = (out.steps_per_canvas.t() > 0).tolist()
    return [
        [row[: max(0, useful_B[b] - c * length)] if took_step_CB[c][b] else [] for b, row in enumerate(rows)]
        for c, rows in enumerate(settled_steps)
    ]


@contextmanager
def _device_errors() -> Iterator[None]:
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
