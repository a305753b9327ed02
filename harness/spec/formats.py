"""Formats of weights that other engines run and this one may not, so that floors can be had of them, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine import cost
from engine.config import PRESETS, ModelConfig
from harness.spec.config import DeviceConfig
from harness.spec.floor import Phase, Roofs, one_step

RELEASED = "diffusiongemma_26b_a4b"  # the shape that launch texts and published figures are about
_RATES = ("float4", "float8_e4m3", "bfloat16")  # a device without one computes in the next
_ACTIVATION_BYTES = {"float4": 0.5, "float8_e4m3": 1, "bfloat16": 2}
_KV_BYTES = 2
_IN_16_BITS = ("attention_core", "sampler")
_OF_THE_HEAD = ("lm_head", "soft_embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFormat:
    """Bytes that a weight takes in each part, and the dtype whose rate serves them. Keys and values are bf16."""

    name: str
    experts: float
    weight: float  # dense MLP, attention, self-conditioning MLP
    head: float  # the embedding, which is also the head
    rate: Literal["bfloat16", "float8_e4m3", "float4"]
    source: str

    @property
    def widths(self) -> cost.Widths:
        activation = _ACTIVATION_BYTES[self.rate]
        return cost.Widths(
            weight=self.weight, activation=activation, kv=_KV_BYTES, head=self.head, experts=self.experts
        )

    def roofs_of(self, device: DeviceConfig) -> Roofs:
        """The device's roofs for each operation; a head of 16 bits is computed in 16 bits."""
        in_16_bits = (*_IN_16_BITS, *(_OF_THE_HEAD if self.head >= _KV_BYTES else ()))
        rates = ("bfloat16" if name in in_16_bits else self.rate for name in cost.OPERATIONS)
        return Roofs(device.bandwidth_bytes_s.value, tuple(_rate(device, dtype) for dtype in rates))

    def is_native_to(self, device: DeviceConfig) -> bool:
        return _value(device, self.rate) is not None

    def bytes_of(self, shape: ModelConfig, batch_size: int, positions: int) -> int:
        """Weights, and the keys and values of so many positions a row: what any engine needs, and no more."""
        sliding = min(positions, shape.sliding_window)
        kv = cost.kv_bytes(shape, batch_size, sliding=sliding, full=positions, widths=self.widths)
        return cost.weight_bytes(shape, self.widths) + kv


def released_shape() -> ModelConfig:
    return PRESETS[RELEASED]


def phases_of(
    shape: ModelConfig,
    form: WeightFormat,
    device: DeviceConfig,
    *,
    batch_size: int,
    prompt_tokens: int,
    output_tokens: int,
    block_length: int | None,
    inclusion: cost.Inclusion | None = None,
) -> dict[str, Phase]:
    """A request's phases as if every canvas took one step; without seconds where the device lacks a roof.

    inclusion: how likely a token is to hit each expert; None: all alike.
    """
    roofs = form.roofs_of(device)
    return one_step(shape, form.widths, roofs, batch_size, prompt_tokens, output_tokens, block_length, inclusion)


def parameters_read(shape: ModelConfig, experts_hit: float | None = None) -> float:
    """Weights that a pass reads when it hits so many distinct experts a layer; None: those that one token activates."""
    return cost.parameters_read(shape, shape.top_k_experts if experts_hit is None else experts_hit)


def expected_experts(shape: ModelConfig, tokens: int) -> float:
    """Distinct experts a layer that so many tokens hit under uniform routing."""
    return cost.distinct_experts(shape, tokens)


def _rate(device: DeviceConfig, dtype: str) -> float | None:
    known = (_value(device, one) for one in _RATES[_RATES.index(dtype) :])
    return next((rate for rate in known if rate is not None), None)


def _value(device: DeviceConfig, dtype: str) -> float | None:
    figure = device.flops_s.get(dtype)
    return None if figure is None else figure.value
