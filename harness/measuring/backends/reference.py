"""The reference engine of this repository as a backend: both decoders on the same weights, in one process."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine import api, ranges
from engine.choices import OPTIONS, resolve
from engine.config import ModelConfig
from engine.observe import MOST_ROWS, observe
from engine.routing import Routing, drawn
from engine.split import listening
from engine.tokenizer import read as read_tokenizer
from harness.measuring.backends.base import Answer, Unsupported
from harness.measuring.backends.on_torch import (
    FLOAT8,
    Prompts,
    Tokenizer,
    check_asked,
    device_errors,
    device_of,
    prompts_of,
    timed_on,
    useful_ids,
)
from harness.records.types import AUTOREGRESSIVE, REPLAY, Cell
from harness.spec import draws
from harness.spec.config import ConfigError, DeviceConfig, ModelSource

_OPTIONS = ("window", *OPTIONS, *draws.OPTIONS)
_MOST_LOGITS = 2**26  # at once, when answers are scored: 256 MiB in float32
_MARKS = {stage: ranges.Range(f"bench.{stage}", "harness", 1) for stage in ("warmup", "measure", "energy", "profile")}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The prompts, and all that the request draws from."""

    prompts: Prompts
    generator: torch.Generator
    routing: Routing | None  # None: the router decides
    replay_steps_BC: torch.Tensor | None  # None: nothing is replayed


class ReferenceBackend:
    def __init__(self) -> None:
        self._model: Any = None

    def load(self, source: ModelSource, shape: ModelConfig, device: DeviceConfig, cell: Cell, seed: int) -> None:
        check_asked(cell, _OPTIONS, "the reference engine", float8_weights=True)
        self._model = None
        gc.collect()
        self._device = device_of(device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with device_errors():
            try:
                self._model = api.load(
                    source.path or source.preset,
                    device=self._device,
                    dtype=cell.activation_dtype,
                    weights=FLOAT8 if cell.weight_dtype == FLOAT8 else None,
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
        prepared = _Prepared(
            prompts_of(cell, texts, seed, self._model.tokenizer, self._model.config, self._device),
            torch.Generator(device=self._device).manual_seed(seed),
            self._routing(cell, seed),
            self._replay_steps(cell, seed),
        )
        if self._model.choices.graphs == "off":
            self._model.steps.clear()  # another cell's: its buffers are not this one's memory
            return prepared
        with device_errors():  # a server has captured its graphs before a request arrives
            self._request(cell, prepared, rehearse=True)
        return prepared

    def _routing(self, cell: Cell, seed: int) -> Routing | None:
        weights = draws.expert_weights(cell, self._model.config)
        return None if weights is None else Routing(weights, self._model.config.num_layers, seed, self._device)

    def _replay_steps(self, cell: Cell, seed: int) -> torch.Tensor | None:
        if cell.stopping != REPLAY or cell.num_steps is None or cell.block_length is None:
            return None
        canvases = -(-cell.output_tokens // cell.block_length)
        return torch.tensor(draws.steps_of(cell).draw(cell.batch_size, canvases, cell.num_steps, seed))

    def generate(self, cell: Cell, prepared: _Prepared) -> Answer:
        out, of_device = timed_on(self._device, lambda: self._request(cell, prepared))
        return Answer(
            ttfb_s=out.ttfb_s,
            block_s=tuple(out.block_s),
            step_s=tuple(out.step_s),
            passes=dict(out.passes),
            steps_per_canvas=tuple(tuple(row) for row in out.steps_per_canvas.tolist()),
            useful_tokens=tuple(out.useful_tokens.tolist()),
            raw_tokens=_computed(out.row_passes) * (cell.block_length or 1),
            stop_reason=out.stop_reason,
            resolved=self._resolved(cell),
            row_passes=dict(out.row_passes),
            output_ids=_useful(out),
            **of_device,
        )

    def count(self, cell: Cell, prepared: _Prepared) -> dict[str, Any]:
        state = prepared.generator.get_state()
        with device_errors(), observe(self._model) as seen:
            out = self._request(cell, prepared)
            output_ids = [row.tolist() for row in _useful(out)]
            nll_nats = self._nll_nats(prepared, out)
        with device_errors(), listening(self._device) as split:  # a request of its own: counters read the device
            prepared.generator.set_state(state)
            self._request(cell, prepared)
        return {
            "kinds": seen.kinds,
            "expert_hits": seen.expert_hits,
            "entropies_nats": seen.entropies,
            "settled_steps": _settled(seen.settled_steps, out, cell.block_length),
            "output_ids": output_ids[:MOST_ROWS],
            "nll_nats": nll_nats,
            "phase_s": split.seconds,
            "phase_passes": split.passes,
        }

    def _nll_nats(self, prepared: _Prepared, out: api.Generation) -> list[float]:
        """Each row's mean negative log-likelihood of its useful tokens under the same weights in causal mode."""
        model, prompts = self._model, prepared.prompts
        B = len(prompts.ids_BT)
        useful_B1 = out.useful_tokens.to(self._device)[:, None]
        output_Bn = out.output_ids[:, : int(out.useful_tokens.max())]
        # The last prompt token, which is never padding, gives the likelihood of the first output token, and so on.
        given_Bn = torch.cat([prompts.ids_BT[:, -1:], output_Bn[:, :-1]], dim=1)
        cache = model.new_cache(B)
        if prompts.ids_BT.shape[1] > 1:
            api.encode(model, prompts.ids_BT[:, :-1], cache=cache, attention_mask_BT=prompts.mask_BT[:, :-1])
        at_once = max(1, _MOST_LOGITS // (B * model.config.vocab_size))
        nll = []
        for given_BN, output_BN in zip(given_Bn.split(at_once, 1), output_Bn.split(at_once, 1), strict=True):
            logits_BNV = api.causal_logits(model, given_BN, cache=cache)
            nll.append(torch.nn.functional.cross_entropy(logits_BNV.mT, output_BN, reduction="none"))
        nll_Bn = torch.cat(nll, dim=1)
        is_useful_Bn = torch.arange(nll_Bn.shape[1], device=self._device) < useful_B1
        means_B: list[float] = ((nll_Bn * is_useful_Bn).sum(dim=1) / useful_B1[:, 0]).tolist()
        return means_B

    def tokenizer(self) -> Tokenizer | None:
        own = self._model.tokenizer
        return None if own is None else Tokenizer(own, self._model.config.generation.eos_ids)

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
            kernels["weights"] = f"{FLOAT8}: {self._model.float8}"
        diffusion = {"window": self._model.window, "sampler": sampler}
        return kernels if cell.decoding == AUTOREGRESSIVE else {**kernels, **diffusion}

    def _request(self, cell: Cell, prepared: _Prepared, *, rehearse: bool = False) -> api.Generation:
        with drawn(self._model, prepared.routing):
            return self._generated(cell, prepared, rehearse)

    def _generated(self, cell: Cell, prepared: _Prepared, rehearse: bool) -> api.Generation:
        return api.generate(  # autoregressive decoding reads none of the arguments that only a canvas has
            self._model,
            prepared.prompts.ids_BT,
            decoding=cell.decoding,
            output_tokens=cell.output_tokens,
            attention_mask_BT=prepared.prompts.mask_BT,
            eos=cell.eos,
            generator=prepared.generator,
            block_length=cell.block_length,
            num_steps=cell.num_steps,
            stopping=cell.stopping,
            replay_steps_BC=prepared.replay_steps_BC,
            rehearse=rehearse,
        )


def _computed(row_passes: dict[str, int]) -> int:
    """Blocks of all rows: a prefill leads to a first one, a commit or decode pass to a further one."""
    return sum(row_passes[kind] for kind in ("prefill", "commit", "decode"))


def _useful(out: api.Generation) -> list[Any]:
    return useful_ids(out.output_ids, out.useful_tokens.tolist())


def _settled(settled_steps: list[list[list[int]]], out: api.Generation, block_length: int | None) -> list[list[Any]]:
    """Of each canvas and row, the useful positions alone; none where the row took no step, because it had ended."""
    length, useful_B = block_length or 1, out.useful_tokens.tolist()
    took_step_CB = (out.steps_per_canvas.t() > 0).tolist()
    return [
        [row[: max(0, useful_B[b] - c * length)] if took_step_CB[c][b] else [] for b, row in enumerate(rows)]
        for c, rows in enumerate(settled_steps)
    ]


@contextmanager
def written(source: ModelSource, device: torch.device, dtype: str, seed: int) -> Iterator[tuple[Path, Any]]:
    """The source's weights as a directory that other libraries load, and its tokenizer.

    A directory is used as it is. Random weights are drawn as this engine draws them and written into a temporary one.

    Raises:
        ConfigError: the source cannot be read, or its weights cannot be written.
    """
    try:
        if source.directory is not None:
            yield source.directory, read_tokenizer(source.directory)
            return
        with tempfile.TemporaryDirectory(prefix="canvasbench-") as folder:
            api.save(api.load(source.preset, device=device, dtype=dtype, seed=seed), folder)
            yield Path(folder), read_tokenizer(Path(folder))
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
