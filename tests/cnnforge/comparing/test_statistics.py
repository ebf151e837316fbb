"""The tests of a comparison, compared with those of SciPy, and their false alarms."""

import numpy as np
import pytest
from scipy import stats

from cnnforge.comparing.statistics import interval, mcnemar, sign_flips, spread_test

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("counts", [(0, 1), (5, 0), (3, 9), (17, 17), (40, 71), (480, 520)])
def test_mcnemar_is_exact(counts: tuple[int, int]) -> None:
    found = mcnemar(*counts)
    assert found.p == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert "exact" in found.name
    assert found.differs == (found.p < 0.05)


def test_mcnemar_of_many_pairs_is_close_to_the_exact_one() -> None:
    found = mcnemar(700, 810)
    assert "exact" not in found.name
    assert found.p == pytest.approx(stats.binomtest(700, 1510).pvalue, rel=0.02)


def test_models_that_always_agree_do_not_differ() -> None:
    assert mcnemar(0, 0).p == 1.0
    assert sign_flips(np.zeros(9)).p == 1.0


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (3, 5), (20, 20)])
@pytest.mark.parametrize("distance", [0.0, 0.7, 3.0, 40.0])
def test_the_spread_over_runs_is_a_t_test(sizes: tuple[int, int], distance: float) -> None:
    first, second = RANDOM.normal(size=sizes[0]), RANDOM.normal(distance, size=sizes[1])
    found = spread_test(list(first), list(second))
    # SciPy has no test of one value, but the formula is the same.
    freedom = sum(sizes) - 2
    squares = sum(((group - group.mean()) ** 2).sum() for group in (first, second))
    error = np.sqrt(squares / freedom * (1 / sizes[0] + 1 / sizes[1]))
    expected = 2 * stats.t.sf(abs(first.mean() - second.mean()) / error, freedom)
    assert found.p == pytest.approx(expected, rel=1e-9)
    if min(sizes) > 1:
        assert found.p == pytest.approx(stats.ttest_ind(first, second).pvalue, rel=1e-9)


def test_single_runs_have_no_spread() -> None:
    assert spread_test([0.5], [0.7]) is None
    assert spread_test([0.5, 0.5], [0.5]).p == 1.0
    assert spread_test([0.5, 0.5], [0.7]).p == 0.0


def test_sign_flips_agree_with_mcnemar() -> None:
    differences = np.array([1.0] * 17 + [-1.0] * 33 + [0.0] * 900)
    assert sign_flips(differences).p == pytest.approx(mcnemar(17, 33).p, abs=0.006)
    # Always the same draws.
    assert sign_flips(differences).p == sign_flips(differences).p


def test_the_interval_holds_the_mean() -> None:
    values = RANDOM.normal(0.3, 1, 4000)
    mean, low, high = interval(values)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(4000))


def answers(accuracy: float, samples: int = 1000) -> np.ndarray:
    return RANDOM.random(samples) < accuracy


def differs(first: np.ndarray, second: np.ndarray) -> bool:
    return mcnemar(int((first & ~second).sum()), int((second & ~first).sum())).differs


def test_equal_models_raise_few_false_alarms() -> None:
    """400 pairs of equally good models: a level of 5 % allows 20 of them, and chance a few more."""
    alarms = sum(differs(answers(0.93), answers(0.93)) for _ in range(400))
    assert alarms <= 30


def test_a_better_model_is_found() -> None:
    assert all(differs(answers(0.85), answers(0.93)) for _ in range(50))
