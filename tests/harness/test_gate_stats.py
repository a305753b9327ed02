"""The gate's statistics against what scipy and textbooks say of one cell at a time."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.analysis import stats
from harness.analysis.gate import times
from harness.spec.gate_rules import GateConfig

FLOATS = st.floats(-0.5, 0.5, allow_nan=False)


@given(st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=5))
def test_every_cell_is_tested_as_if_it_were_alone(rows: list[list[float]]) -> None:
    found = stats.paired(np.array(rows))
    for i, row in enumerate(rows):
        if np.std(row) < 1e-6:
            continue
        alone = scipy_stats.ttest_1samp(row, 0, alternative="greater")
        interval = scipy_stats.ttest_1samp(row, 0).confidence_interval(0.95)
        assert found.p_greater[i] == pytest.approx(alone.pvalue)
        assert (found.low[i], found.high[i]) == pytest.approx((interval.low, interval.high))


def test_a_pair_that_was_not_measured_counts_neither_way() -> None:
    whole = stats.paired(np.array([[0.01, 0.03, 0.02]]))
    holed = stats.paired(np.array([[0.01, np.nan, 0.03, 0.02]]))
    assert (holed.n[0], holed.mean[0], holed.p_greater[0]) == (3, whole.mean[0], whole.p_greater[0])


def test_one_pair_says_nothing() -> None:
    found = stats.paired(np.array([[0.5, np.nan]]))
    assert found.n[0] == 1
    assert np.isnan([found.mean[0], found.low[0], found.p_greater[0]]).all()


def test_pairs_that_are_all_alike_are_certain() -> None:
    found = stats.paired(np.array([[0.05, 0.05, 0.05], [0.0, 0.0, 0.0], [-0.05, -0.05, -0.05]]))
    assert found.p_greater.tolist() == [0, 1, 1]
    assert found.p_less.tolist() == [1, 1, 0]
    assert found.low.tolist() == found.high.tolist() == found.mean.tolist()


def test_scatter_is_pooled_by_degrees_of_freedom() -> None:
    sd, degrees = stats.pooled_sd(np.array([1.0, 3.0, np.nan]), np.array([2, 4, 1]))
    assert degrees == 1 + 3
    assert sd == pytest.approx(((1 * 1 + 3 * 9) / 4) ** 0.5)


def test_holm_multiplies_the_smallest_by_the_number_of_cells() -> None:
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]).tolist() == []


def test_pairs_needed_are_those_of_the_published_table() -> None:
    """For 5 % at alpha 0.01 with 95 % power; the non-central t of scipy agrees below."""
    needed = [stats.pairs_needed(log(1.05), 0.0, sd, 0.01, 0.95, 2, 60) for sd in (0.01, 0.02, 0.04)]
    assert needed == [4, 6, 14]
    assert stats.pairs_needed(log(1.05), 0.0, 0.2, 0.01, 0.95, 2, 60) is None


def test_a_detectable_mean_is_detected_as_often_as_promised() -> None:
    draw = np.random.default_rng(0)
    least = stats.detectable_sds(10, 0.01, 0.95)
    p = stats.paired(draw.standard_normal((20_000, 10)) + least).p_greater
    assert np.mean(p < 0.01) == pytest.approx(0.95, abs=0.01)


def test_the_least_worsening_of_prompts_is_shown_as_often_as_promised() -> None:
    """By the sign-flip test itself, of which the least worsening that is told borrows a t-test's power."""
    draw = np.random.default_rng(0)
    least = stats.least_shown(10, 1.0, 0.05, 0.025, 0.95)
    shown = [stats.sign_flip_p(list(row), 0) < 0.05 for row in draw.standard_normal((200, 10)) + least]
    assert 0.9 <= np.mean(shown) <= 1


@pytest.mark.parametrize("differences", [[1.0, 2.0, 3.0], [1.0, -2.0, 3.0, 0.5], [0.0, 1.0, 1.0, -1.0, 1.0]])
def test_the_sign_flip_test_counts_every_flip(differences: list[float]) -> None:
    flips = [np.dot(signs, differences) for signs in product([1, -1], repeat=len(differences))]
    expected = np.mean([flip >= sum(differences) - 1e-12 for flip in flips])
    assert stats.sign_flip_p(differences, 0) == pytest.approx(expected)


def test_first_differences_are_a_binomial() -> None:
    assert stats.first_difference_p(1, 1, 0.05) == pytest.approx(0.05)
    assert stats.first_difference_p(2, 10, 0.05) == pytest.approx(1 - 0.95**10 - 10 * 0.05 * 0.95**9)


def test_the_ratio_of_unpaired_launches_has_welchs_interval() -> None:
    base, head = [1.0, 1.1, 0.9, 1.05], [1.2, 1.3, 1.25]
    interval = scipy_stats.ttest_ind(np.log(head), np.log(base), equal_var=False).confidence_interval(0.95)
    assert stats.ratio_interval(base, head) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert stats.ratio_interval([1.0], [2.0, 3.0]) == (None, None)


def test_a_slowdown_that_so_few_pairs_could_never_show_is_no_number() -> None:
    """Of two pairs that scatter by 0.5 the least one of 320 cells is beyond what a float holds."""
    draw = np.random.default_rng(0)
    screen = times.screened(0.4 + 0.01 * draw.standard_normal((320, 3)), GateConfig())
    few, more = (0.4 + 0.5 * draw.standard_normal((320, pairs)) for pairs in (2, 10))
    floors = np.full(320, 0.025)
    of_few, of_more = ([one.mde for one in times.judged(screen, pairs, floors, GateConfig())] for pairs in (few, more))
    assert None in of_few
    assert None not in of_more
    assert all(one is None or np.isfinite(one) for one in of_few)
