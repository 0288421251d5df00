"""Sign flips against scipy's enumeration, against Student's t, and against their own promise; draws of workers."""

import numpy as np
import pytest
from scipy import stats

from ifllm.base.bootstrap import by_worker, flip_test, interval, mean_draws, subset_counts, worker_counts, worker_mean


def flips(values, level=0.95, n_draws=10_000):
    counts = subset_counts(len(values), n_draws)[1:]
    return flip_test(counts @ values / counts.sum(axis=1), level)


@pytest.mark.parametrize("n", [4, 7, 10])
def test_p_value_is_that_of_scipys_enumeration(n):
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.6, 1, n)
        theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert flips(values)[2] == pytest.approx(theirs.pvalue)


def test_interval_holds_what_the_test_does_not_reject():
    """The interval is the set of values that scipy's test keeps, found by trying them one by one."""
    values = np.random.default_rng(4).normal(1, 2, 9)
    low, high, _ = flips(values)
    for tried in np.linspace(-2, 4, 121):
        p = stats.permutation_test((values - tried,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert (p > 0.05) == (low <= tried <= high), tried


def test_few_workers_cannot_show_much():
    assert flips(np.array([0.1, 0.2, 0.3, 0.4])) == (-np.inf, np.inf, 0.125)
    assert flips(np.array([0.3]))[2] == 1
    low, high, p = flips(np.arange(1.0, 7))
    assert (low, high, p) == (1, 6, pytest.approx(2 / 64))
    assert flips(np.zeros(8)) == (0, 0, 1)


def test_many_workers_give_students_interval():
    values = np.random.default_rng(0).normal(0.2, 1, 60)
    low, high, p = flips(values, n_draws=40_000)
    theirs = stats.ttest_1samp(values, 0)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.02)
    assert p == pytest.approx(theirs.pvalue, abs=0.01)


@pytest.mark.parametrize("n", [6, 12, 40])
def test_p_value_and_interval_agree_at_every_level(n):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.3, 1, n)
        for level in (0.5, 0.8, 0.9, 0.95):
            low, high, p = flips(values, level, 400)
            assert (p <= 1 - level + 1e-12) == (low > 0 or high < 0)


def test_size_is_what_it_says_and_p_is_not_half_of_it():
    rng = np.random.default_rng(1)
    p = [flips(rng.normal(size=12), n_draws=400)[2] for _ in range(1500)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=3 * (level * (1 - level) / 1500) ** 0.5 + 0.01)


def test_subsets_are_all_of_them_or_random_halves():
    few = subset_counts(5, 31)
    assert few[0].tolist() == [1] * 5 and len({tuple(row) for row in few[1:]}) == 31 and few[1:].any(axis=1).all()
    many = subset_counts(20, 2000, seed=3)
    assert many.shape == (2001, 20) and many[1:].mean() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(many, subset_counts(20, 2000, seed=3))


def test_bootstrap_draws_are_those_of_repeated_workers():
    worker, values = np.array([0, 0, 1, 2, 2, 2]), np.arange(6.0)
    counts = worker_counts(3, 50, seed=1)
    assert counts[0].tolist() == [1, 1, 1] and (counts.sum(axis=1) == 3).all()
    for row, mean in zip(counts, mean_draws(counts, worker, values)):
        assert mean == pytest.approx(
            np.concatenate([values[worker == w] for w in np.repeat(range(3), row.astype(int))]).mean()
        )
    assert by_worker(worker, 3, values).tolist() == [1, 2, 12]


def test_interval_has_hesterbergs_levels():
    draws = np.random.default_rng(0).normal(size=200_000)
    tail = stats.norm.cdf(np.sqrt(8 / 7) * stats.t.ppf(0.025, 7))
    assert interval(draws, 8) == pytest.approx((stats.norm.ppf(tail), -stats.norm.ppf(tail)), abs=0.05)
    assert np.isnan(interval(draws, 1)).all()


@pytest.mark.parametrize("n_workers", range(2, 6))
def test_few_workers_who_are_all_alike_bound_nothing(n_workers):
    worker = np.repeat(np.arange(n_workers), 3)
    mean, *ends = worker_mean(worker, np.tile([0.0, 1.0, 1.0], n_workers), 200)
    assert mean == pytest.approx(2 / 3)
    assert np.isnan(ends).all() if n_workers < 4 else ends == pytest.approx([2 / 3, 2 / 3])
