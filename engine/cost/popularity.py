"""How popular experts are when routing is drawn: weights, and how likely a token's top k include each. No torch here.

A token draws k of E experts without replacement, each next one with probability proportional to its weight among those
that are left (Plackett-Luce). engine/routing.py draws so on the device, by Gumbel noise on the weights' logarithms:
the k largest of log w + G are such a draw (https://arxiv.org/abs/1903.06059).

Inclusion. Give every expert an exponential clock with rate w_e; the first k that ring are the draw. So
    p_e = integral over t of w_e exp(-w_e t) P(fewer than k of the others have rung by t) dt,
and how many of the others have rung is a sum of independent coins with probabilities 1 - exp(-w t).

Legend: E experts, k of them per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

ROUTINGS = ("uniform", "zipf", "replay")  # how experts can be drawn
Inclusion = tuple[
    tuple[float, ...], ...
]  # [layer][expert]: how likely a token's k include it; one layer means all alike
_NODES = 256  # of the integral over time: p_e is then exact to about 1e-9 for 128 experts
_INVERSIONS, _TOLERANCE = 400, 1e-4
_NEARLY_ALWAYS = 1 - 1e-4  # an expert that every token chose would need an infinite weight


def zipf_weights(num_experts: int, exponent: float) -> tuple[float, ...]:
    """Weight of the r-th most popular expert, proportional to r^-exponent; 0 is uniform."""
    weights = np.arange(1, num_experts + 1, dtype=float) ** -exponent
    return tuple((weights / weights.sum()).tolist())


def replayed_weights(frequencies: Sequence[float], k: int) -> tuple[float, ...]:
    """Weights under which a token includes each expert as often as was measured.

    frequencies: how often each expert was chosen, in any unit: they are scaled to the k that a token chooses.

    Raises:
        ValueError: frequencies that no k distinct choices of a token can give.
    """
    given = np.asarray(frequencies, dtype=float)
    if not np.isfinite(given).all() or (given < 0).any() or (given > 0).sum() < k:
        raise ValueError(f"expected frequencies of at least 0, {k} of them above it, because a token chooses {k}")
    wanted = np.minimum(given * (k / given.sum()), _NEARLY_ALWAYS)
    if given.max() * (k / given.sum()) > 1 + 1e-6:
        raise ValueError(f"one expert has more than 1/{k} of all choices, but a token chooses {k} different ones")
    wanted *= k / wanted.sum()
    weights = wanted / wanted.sum()
    for _ in range(_INVERSIONS):
        found = np.asarray(inclusion_of(tuple(weights.tolist()), k))
        if np.abs(found - wanted).max() < _TOLERANCE:
            break
        scaled = np.log1p(-np.minimum(wanted, 1 - 1e-9)) / np.log1p(-np.clip(found, 1e-300, 1 - 1e-9))
        weights = np.where(wanted > 0, weights * scaled, 0.0)
        weights /= weights.sum()
    return tuple(weights.tolist())


@lru_cache(maxsize=256)
def inclusion_of(weights: tuple[float, ...], k: int) -> tuple[float, ...]:
    """Probability of each expert to be among the k that a token draws; they sum to k."""
    w = np.asarray(weights, dtype=float)
    if (w > 0).sum() <= k:
        return tuple((w > 0).astype(float).tolist())
    nodes, masses = _gauss_legendre()
    x = (nodes + 1) / 2  # in (0, 1)
    scale = _median_time(w, k)
    t_N = scale * (x / (1 - x)) ** 2
    dt_N = masses / 2 * scale * 2 * x / (1 - x) ** 3
    rung_NE = -np.expm1(-t_N[:, None] * w)
    density_NE = w * np.exp(-t_N[:, None] * w)
    # probability that c of the experts other than e have rung: one expert after another is added to all others
    count_NEc = np.zeros((_NODES, len(w), k))
    count_NEc[:, :, 0] = 1
    for other in range(len(w)):
        p = rung_NE[:, other, None, None]
        added = count_NEc * (1 - p)
        added[:, :, 1:] += count_NEc[:, :, :-1] * p
        added[:, other] = count_NEc[:, other]  # itself is none of its others
        count_NEc = added
    inclusion = (dt_N[:, None] * density_NE * count_NEc.sum(axis=2)).sum(axis=0)
    return tuple(np.clip(inclusion, 0, 1).tolist())


def inclusion(weights: Sequence[Sequence[float]], k: int) -> Inclusion:
    """Of every layer."""
    return tuple(inclusion_of(tuple(layer), k) for layer in weights)


@cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (-1, 1) and their weights. numpy has them, too, but takes 0.3 s for what scipy does in 0.03."""
    from scipy.special import roots_legendre

    nodes, masses = roots_legendre(_NODES)
    return nodes, masses


def _median_time(w: np.ndarray, k: int) -> float:
    """When about k clocks have rung: where the integral's mass lies."""
    low, high = 0.0, 1.0
    while (-np.expm1(-high * w)).sum() < k:
        high *= 2
        if high > 1e18:
            break
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (-np.expm1(-middle * w)).sum() < k else (low, middle)
    return high
