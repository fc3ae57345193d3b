"""The smoothing recursion against the paper's equations, statsmodels and numerical gradients."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from rnnforecast.nn.smoothing import smooth

Smoothed = namedtuple("Smoothed", "level seasons")


def smooth_tensors(z, alpha, gammas, level, seasons):
    """Level after each row, and seasons, from the coefficients of the paper."""
    gains = [alpha, *((1 - alpha) * gamma for gamma in gammas)]
    first, *terms = smooth(z, gains, [level[:, None], *seasons])
    return Smoothed(first[:, 1:], terms)


def smooth_arrays(z, alpha, gammas, level, seasons):
    def tensor(x):
        return torch.tensor(np.asarray(x))

    lists = [[tensor(x) for x in part] for part in (gammas, seasons)]
    out = smooth_tensors(tensor(z), tensor(alpha), lists[0], tensor(level), lists[1])
    return Smoothed(out.level.numpy(), [term.numpy() for term in out.seasons])


def case(n=3, n_steps=31, periods=(4, 7), seed=0, missing=0.15):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, n_steps))
    z[rng.random(z.shape) < missing] = np.nan
    alpha = rng.uniform(0.1, 0.9, n)
    gammas = [rng.uniform(0.1, 0.9, n) for _ in periods]
    level = rng.normal(size=n)
    seasons = [rng.normal(size=(n, p)) for p in periods]
    return z, alpha, gammas, level, seasons


def literal(y, alpha, gamma, delta, level, s, u):
    """Smyl 2020, multiplicative, one series, equation by equation; a NaN row carries the state."""
    s, u, levels = list(s), list(u), []
    m, n = len(s), len(u)
    for t, value in enumerate(y):
        if np.isnan(value):
            s.append(s[t])
            u.append(u[t])
        else:
            # geometric means in place of the paper's arithmetic ones
            new = (value / (s[t] * u[t])) ** alpha * level ** (1 - alpha)
            s.append((value / (new * u[t])) ** gamma * s[t] ** (1 - gamma))
            u.append((value / (new * s[t])) ** delta * u[t] ** (1 - delta))
            level = new
        levels.append(level)
    assert (len(s), len(u)) == (len(y) + m, len(y) + n)
    return np.array(levels), np.array(s), np.array(u)


def test_it_is_the_papers_recursion_in_logarithms():
    z, alpha, gammas, level, seasons = case()
    ours = smooth_arrays(z, alpha, gammas, level, seasons)
    for i in range(len(z)):
        theirs = literal(
            np.exp(z[i]),
            alpha[i],
            gammas[0][i],
            gammas[1][i],
            np.exp(level[i]),
            np.exp(seasons[0][i]),
            np.exp(seasons[1][i]),
        )
        np.testing.assert_allclose(np.exp(ours.level[i]), theirs[0], rtol=1e-12)
        np.testing.assert_allclose(np.exp(ours.seasons[0][i]), theirs[1], rtol=1e-12)
        np.testing.assert_allclose(np.exp(ours.seasons[1][i]), theirs[2], rtol=1e-12)


@pytest.mark.parametrize("seasonal", [True, False])
def test_one_season_is_additive_ets(seasonal):
    rng = np.random.default_rng(1)
    y, m, alpha, gamma = rng.normal(size=40).cumsum(), 5, 0.3, 0.4
    level, season = y[0], rng.normal(size=m)
    options = {"initialization_method": "known", "initial_level": level}
    parameters = [alpha]
    if seasonal:
        # statsmodels wants the initial seasons from the last before the first row backwards, and
        # its seasonal coefficient multiplies the one-step error
        options |= {"seasonal": "add", "seasonal_periods": m, "initial_seasonal": season}
        parameters.append(gamma * (1 - alpha))
    model = ETSModel(y, error="add", **options)
    fitted = model.smooth(parameters).fittedvalues
    gammas, seasons = ([np.array([gamma])], [season[None]]) if seasonal else ([], [])
    ours = smooth_arrays(y[None], np.array([alpha]), gammas, np.array([level]), seasons)
    before = np.concatenate([[level], ours.level[0, :-1]])
    expected = before + (ours.seasons[0][0, : len(y)] if seasonal else 0.0)
    np.testing.assert_allclose(expected, fitted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("periods", [(), (4,), (3, 7), (5, 40)])
def test_the_adjoint_is_the_gradient(periods):
    z, alpha, gammas, level, seasons = case(n=2, n_steps=13, periods=periods)
    seen = ~np.isnan(z)
    mask = torch.tensor(seen)

    def recursion(values, alpha, level, *rest):
        values = torch.where(mask, values, torch.nan)
        out = smooth_tensors(values, alpha, rest[: len(periods)], level, rest[len(periods) :])
        return (out.level, *out.seasons)

    inputs = [np.nan_to_num(z), alpha, level, *gammas, *seasons]
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    assert torch.autograd.gradcheck(recursion, tensors, eps=1e-6, atol=1e-7)


def test_the_state_can_be_carried_on():
    z, alpha, gammas, level, seasons = case(missing=0.0)
    whole = smooth_arrays(z, alpha, gammas, level, seasons)
    first = smooth_arrays(z[:, :11], alpha, gammas, level, seasons)
    rest = smooth_arrays(
        z[:, 11:], alpha, gammas, first.level[:, -1], [s[:, 11:] for s in first.seasons]
    )
    np.testing.assert_array_equal(
        np.concatenate([first.level, rest.level], 1), whole.level, strict=True
    )
    for k in range(2):
        both = np.concatenate([first.seasons[k][:, :11], rest.seasons[k]], 1)
        np.testing.assert_array_equal(both, whole.seasons[k])


def test_what_is_missing_changes_nothing_and_the_past_not_the_future():
    z, alpha, gammas, level, seasons = case()
    z[0, 9] = np.nan
    base = smooth_arrays(z, alpha, gammas, level, seasons)
    assert base.level[0, 9] == base.level[0, 8]
    assert base.seasons[0][0, 13] == base.seasons[0][0, 9]
    later = z.copy()
    later[:, 20:] = 1e6
    moved = smooth_arrays(later, alpha, gammas, level, seasons)
    np.testing.assert_array_equal(moved.level[:, :20], base.level[:, :20])
    np.testing.assert_array_equal(moved.seasons[0][:, :24], base.seasons[0][:, :24])
    np.testing.assert_array_equal(moved.seasons[1][:, :27], base.seasons[1][:, :27])
