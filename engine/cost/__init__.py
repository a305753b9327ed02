"""What a model call must cost by formula: its operations, and the experts that routing makes it read. No torch here."""

from engine.cost.operations import (
    OPERATIONS,
    Cost,
    Widths,
    attention_parameters,
    distinct_experts,
    kv_bytes,
    parameters,
    parameters_read,
    pass_cost,
    weight_bytes,
)
from engine.cost.popularity import ROUTINGS, Inclusion, inclusion, replayed_weights, zipf_weights

__all__ = [
    "OPERATIONS",
    "ROUTINGS",
    "Cost",
    "Inclusion",
    "Widths",
    "attention_parameters",
    "distinct_experts",
    "inclusion",
    "kv_bytes",
    "parameters",
    "parameters_read",
    "pass_cost",
    "replayed_weights",
    "weight_bytes",
    "zipf_weights",
]
