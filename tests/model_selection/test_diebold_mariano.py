"""The Diebold-Mariano test against the published formula, and its size under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from rnnforecast.exceptions import DataError
from rnnforecast.model_selection import diebold_mariano


def published(e1, e2, h, power):
    """S1 of Diebold & Mariano 1995, as corrected by Harvey, Leybourne & Newbold 1997."""
    d = [abs(a) ** power - abs(b) ** power for a, b in zip(e1, e2)]
    n = len(d)
    mean = sum(d) / n
    gamma = []
    for k in range(h):
        gamma.append(sum((d[t] - mean) * (d[t - k] - mean) for t in range(k, n)) / n)
    variance = (gamma[0] + 2 * sum(gamma[1:])) / n
    statistic = mean / math.sqrt(variance)
    statistic *= math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    return statistic, 2 * (1 - stats.t(n - 1).cdf(abs(statistic)))


@pytest.mark.parametrize("h", [1, 2, 5])
@pytest.mark.parametrize(("loss", "power"), [("absolute", 1), ("squared", 2)])
def test_equals_the_published_formula(h, loss, power):
    rng = np.random.default_rng(11)
    noise = rng.normal(size=80)
    e1 = np.convolve(noise, np.ones(h), "valid")  # MA(h - 1), as h-step errors are
    e2 = 1.3 * np.convolve(rng.normal(size=80), np.ones(h), "valid")
    result = diebold_mariano(e1, e2, h, loss=loss)
    assert_allclose(result, published(e1, e2, h, power), rtol=1e-10)
    swapped = diebold_mariano(e2, e1, h, loss=loss)
    assert_allclose(swapped, (-result.statistic, result.pvalue))


def test_one_step_is_a_paired_t_test_up_to_its_divisor():
    # h = 1: S1* = mean / sqrt(gamma0 / n) * sqrt((n - 1) / n), which is the paired t statistic
    rng = np.random.default_rng(0)
    l1, l2 = rng.uniform(size=20), rng.uniform(size=20)
    result = diebold_mariano(l1, l2, loss="identity")
    assert_allclose(result, tuple(stats.ttest_rel(l1, l2)))
    assert_allclose(result, diebold_mariano(l1, l2, loss=lambda e: e))


def test_bartlett_weights_and_the_negative_variance():
    rng = np.random.default_rng(4)
    e1, e2 = rng.normal(size=30), rng.normal(size=30)
    d = np.abs(e1) - np.abs(e2)
    c = d - d.mean()
    gamma = [c[k:] @ c[: 30 - k] / 30 for k in range(3)]
    variance = (gamma[0] + 2 * (2 / 3 * gamma[1] + 1 / 3 * gamma[2])) / 30
    expected = d.mean() / np.sqrt(variance) * np.sqrt((31 - 6 + 6 / 30) / 30)
    assert_allclose(diebold_mariano(e1, e2, 3, variance="bartlett").statistic, expected)
    # an alternating differential has a negative rectangular sum at h = 2
    swing = 0.1 + np.tile([1.0, -1.0], 10)
    with_fallback = diebold_mariano(swing, np.zeros(20), 2, loss="identity")
    assert np.isfinite(with_fallback).all()
    assert with_fallback == diebold_mariano(
        swing, np.zeros(20), 2, loss="identity", variance="bartlett"
    )


@pytest.mark.parametrize(("h", "n"), [(1, 15), (3, 60)])
def test_size_under_the_null(h, n):
    """Equally accurate forecasts are told apart in about 5% of samples at the 5% level."""
    rng = np.random.default_rng(2024)
    rejected = 0
    for _ in range(600):
        e1, e2 = (np.convolve(rng.normal(size=n + h - 1), np.ones(h), "valid") for _ in "12")
        rejected += diebold_mariano(e1, e2, h, loss="squared").pvalue < 0.05
    # HLN 1997 report 5 to 8 percent; the sampling error of 600 replications is 0.9
    assert 0.025 < rejected / 600 < 0.085


def test_power_and_sign():
    rng = np.random.default_rng(1)
    e = rng.normal(size=50)
    result = diebold_mariano(e, 3 * e)
    assert result.statistic < 0
    assert result.pvalue < 0.001


def test_degenerate_differentials():
    e = np.arange(6.0)
    assert diebold_mariano(e, -e) == (0.0, 1.0)
    assert np.isnan(diebold_mariano(e + 0.1, e, loss="identity")).all()
    holes = np.array([np.nan, *e, np.nan])
    assert_allclose(
        diebold_mariano(holes, holes[::-1]), diebold_mariano(holes[1:-1], holes[-2:0:-1])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0]), "equally long"),
        (([[1.0], [2.0]], [[1.0], [3.0]]), "1-D"),
        (([1.0], [2.0]), "too few"),
        (([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], 3), "needs at least 4"),
        (([1.0, 2.0], [2.0, 3.0], 0), "h must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        diebold_mariano(*arguments)


def test_bad_choices_are_named():
    with pytest.raises(DataError, match="loss must be one of"):
        diebold_mariano([1.0, 2.0], [2.0, 3.0], loss="cubed")
    with pytest.raises(DataError, match="variance must be one of"):
        diebold_mariano([1.0, 2.0], [2.0, 3.0], variance="parzen")
