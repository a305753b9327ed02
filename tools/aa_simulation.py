"""How often intervals hold the truth when rounds end by the rule of a protocol: made-up noise, the harness's own rules.

python tools/aa_simulation.py

Two arms take turns, as a group of two cells does, until neither needs a further round; their times are made up. The
speed-up is 1, so the share of its intervals without 1 can be counted, and compared with the 5 % that 95 % promise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy
from numpy.random import Generator

from harness.measuring.enough import rounds_ended
from harness.measuring.session import turns
from harness.spec.config import Protocol
from harness.spec.intervals import median_interval
from harness.spec.suite import compose

Draw = Callable[[Generator, int], numpy.ndarray]  # n -> seconds of n requests one after another


def normal(draw: Generator, n: int) -> numpy.ndarray:
    """Every request by itself, with a standard deviation of 3 %."""
    return numpy.exp(0.03 * draw.standard_normal(n))


def heavy_tailed(draw: Generator, n: int) -> numpy.ndarray:
    """One in ten requests is disturbed, and then by 50 % in the mean."""
    return normal(draw, n) * (1 + (draw.random(n) < 0.1) * draw.exponential(0.5, n))


def two_modes(draw: Generator, n: int) -> numpy.ndarray:
    """Requests at one of two speeds that lie 20 % apart, each for five requests in the mean."""
    switches = draw.random(n) < 0.2
    slow = (numpy.cumsum(switches) + draw.integers(2)) % 2
    return normal(draw, n) * (1 + 0.2 * slow)


def drifting(draw: Generator, n: int) -> numpy.ndarray:
    """A random walk: each request starts from where the last one was, 3 % away in the standard deviation."""
    return numpy.exp(0.03 * draw.standard_normal(n).cumsum()) * normal(draw, n)


def second_is_faster(draw: Generator, n: int) -> numpy.ndarray:
    """Whatever comes second in a round finds warm caches and is 10 % faster."""
    return normal(draw, n) * numpy.where(numpy.arange(n) % 2, 0.9, 1.0)


NOISES: dict[str, Draw] = {
    "normal": normal,
    "heavy tails": heavy_tailed,
    "two speeds": two_modes,
    "drift": drifting,
    "second is faster": second_is_faster,
}


def trial(noise: Draw, protocol: Protocol, draw: Generator, *, interleaved: bool = True) -> list[float]:
    """The ratios of one group's two arms, whose rounds end when the protocol has enough of both."""
    most = protocol.most_rounds
    seconds = noise(draw, 2 * most)
    group = str(draw.integers(2**31))
    arms: tuple[list[float], list[float]] = ([], [])
    if interleaved:
        for index in range(most):
            if all(rounds_ended(arm, 0.0, protocol) for arm in arms):
                break
            for place, arm in enumerate(turns([0, 1], group, index)):
                arms[arm].append(float(seconds[2 * index + place]))
    else:
        left = list(map(float, seconds))
        for arm in turns([0, 1], group, 0):
            while not rounds_ended(arms[arm], 0.0, protocol):
                arms[arm].append(left.pop(0))
    return [a / b for a, b in zip(*arms, strict=False)]


def share_without_1(trials: list[list[float]]) -> float:
    """Of the intervals of the speed-up."""
    intervals = [median_interval(one) for one in trials]
    return sum(not one.low <= 1 <= one.high for one in intervals) / len(trials)


def row_text(name: str, protocol: Protocol, trials: int, seed: int) -> str:
    """A row of the table; both orders meet the same noise."""
    both = [
        [trial(NOISES[name], protocol, numpy.random.default_rng([seed, i]), interleaved=is_so) for i in range(trials)]
        for is_so in (True, False)
    ]
    rounds = numpy.median([len(one) for one in both[0]])
    widths = [median_interval(one) for one in both[0]]
    width = numpy.median([(one.high - one.low) / 2 for one in widths])
    shares = " | ".join(f"{share_without_1(one):.1%}" for one in both)
    return f"| {name} | {protocol.name} | {shares} | {width:.1%} | {rounds:g} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage of intervals under made-up noise.")
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| noise | protocol | without 1, interleaved | without 1, sequential | half-width | rounds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in NOISES:
        for protocol in ("ci", "publish"):
            own = compose([f"protocol={protocol}"], backends=["reference"]).protocol
            fixed = replace(own, name=f"{protocol}, max_rounds=null", rounds=own.most_rounds, max_rounds=None)
            for each in (own, fixed):
                print(row_text(name, each, args.trials, args.seed), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
