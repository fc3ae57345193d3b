"""Validation losses, and the greedy choice of an ensemble by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.metrics import naive_scale

__all__ = ["METRICS", "Judge", "choose_weights", "series_scales"]

METRICS = ("mase", "smape", "owa", "mae", "rmsse")

_MOST_VALUES = 50_000  # forecast values that weights are chosen on: bounds the seconds for it
_MOST_ROUNDS = 30
_NEAR = 1.25  # times the best loss: forecasts beyond only help by chance
_LEAST_GAIN = 1e-4  # of the loss, for a larger ensemble


def series_scales(panel: Panel, seasonality: int, power: int = 1) -> np.ndarray:
    """Mean error of the seasonal naive forecast in each history, what MASE divides by.

    Parameters
    ----------
    panel : Panel
    seasonality : int
        1 instead for series that are no longer than one season.
    power : int, default 1

    Returns
    -------
    ndarray, shape (n_series, n_targets)
        NaN where it is zero or unknown.
    """
    scales = np.full((panel.n_series, panel.targets.shape[1]), np.nan)
    for i, n in enumerate(panel.lengths):
        if n > 1:
            lag = seasonality if n > seasonality else 1
            scales[i] = naive_scale(panel.targets[panel.series(i)], seasonality=lag, power=power)
    return scales


@dataclass(frozen=True)
class Judge:
    """Truth of the held-out rows, and the loss of forecasts of them.

    Attributes
    ----------
    metric : str
        One of ``METRICS``. Each is computed for every series over its origins, steps and targets,
        then averaged over the series; unobserved truths do not count, nor do series whose scale is
        zero (all of them then count without a scale).
    truth : ndarray, shape (n_series, n_origins, n_steps, n_targets)
        NaN where unobserved.
    scale : ndarray, shape (n_series, n_targets)
        What MASE divides by; for RMSSE what the squared error is divided by.
    reference : ndarray, same shape as truth, or None
        The seasonal naive forecast, whose sMAPE and MASE are the units of "owa".
    """

    metric: str
    truth: np.ndarray
    scale: np.ndarray
    reference: np.ndarray | None = None

    def loss(self, forecast: np.ndarray) -> float:
        """Mean loss of a forecast of the truth's shape; infinite where it is not finite."""
        seen = ~np.isnan(self.truth)
        if not np.isfinite(forecast[seen]).all():
            return float("inf")
        if self.metric == "owa":
            # Makridakis, Spiliotis & Assimakopoulos 2020 (IJF 36(1)), with another reference
            parts = [self._ratio(name, forecast) for name in ("smape", "mase")]
            return float(np.mean(parts))
        return self._mean(self.metric, forecast)

    def _ratio(self, metric: str, forecast: np.ndarray) -> float:
        assert self.reference is not None
        unit = self._mean(metric, self.reference)
        value = self._mean(metric, forecast)
        return value / unit if unit > 0 else 1.0 + value

    def _mean(self, metric: str, forecast: np.ndarray) -> float:
        error = np.abs(self.truth - forecast)
        if metric == "smape":
            size = np.abs(self.truth) + np.abs(forecast)
            zero = np.where(np.isnan(size), np.nan, 0.0)
            error = np.divide(200.0 * error, size, out=zero, where=size > 0)
        elif metric == "rmsse":
            error = error**2
        by_target = _observed_mean(error, (1, 2))
        if metric in ("mase", "rmsse"):
            known = np.isfinite(self.scale) & np.isfinite(by_target)
            by_target = by_target / (np.where(known, self.scale, np.nan) if known.any() else 1.0)
        if metric == "rmsse":
            by_target = np.sqrt(by_target)
        return float(_observed_mean(_observed_mean(by_target, (1,)), (0,)))

    def thinned(self) -> tuple[Judge, slice]:
        """A judge of evenly spread series, few enough to be asked often, and which they are."""
        each = int(np.prod(self.truth.shape[1:]))
        step = max(-(-self.truth.shape[0] * each // _MOST_VALUES), 1)
        part = slice(None, None, step)
        reference = None if self.reference is None else self.reference[part]
        return Judge(self.metric, self.truth[part], self.scale[part], reference), part


def _observed_mean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mean over axes without NaN; NaN where nothing was observed."""
    seen = ~np.isnan(values)
    total = np.sum(values, axis=axes, where=seen)
    count = seen.sum(axis=axes)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def choose_weights(judge: Judge, forecasts: Sequence[np.ndarray]) -> np.ndarray:
    """Weights of an ensemble, chosen greedily with replacement.

    Starting from nothing, the forecast is drawn whose addition makes the mean of all drawn best;
    one may be drawn again (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, ICML, section 2.1). The
    best of 30 such ensembles is taken. The first is the best single forecast: so the ensemble is
    never worse, on these rows, than any of the forecasts. Those whose loss is more than a quarter
    above the best one's are left out (pruning, ibid. 2006, "Getting the most out of ensemble
    selection", ICDM, section 4.1).

    Parameters
    ----------
    judge : Judge
    forecasts : sequence of ndarray, each of the shape of ``judge.truth``
        At least one with a finite loss; NaN losses count as infinite.

    Returns
    -------
    ndarray, shape (n_forecasts,)
        Shares of the draws; they sum to 1.
    """
    small, part = judge.thinned()
    losses = [x if np.isfinite(x) else np.inf for x in map(judge.loss, forecasts)]
    first = min(range(len(forecasts)), key=lambda k: losses[k])
    usable = [k for k in range(len(forecasts)) if losses[k] <= _NEAR * losses[first]]
    thin = {k: forecasts[k][part] for k in usable}
    drawn = np.zeros(len(forecasts))
    drawn[first] = 1
    total, best = thin[first], small.loss(thin[first])
    weights = drawn.copy()
    for n in range(2, _MOST_ROUNDS + 1):
        found = {k: small.loss((total + thin[k]) / n) for k in usable}
        chosen = min(usable, key=lambda k: found[k])
        drawn[chosen] += 1
        total = total + thin[chosen]
        if found[chosen] < best * (1 - _LEAST_GAIN):
            best, weights = found[chosen], drawn / n
    # on all series, where the weights came from a part of them
    mixed = sum(weights[k] * forecasts[k] for k in usable if weights[k])
    if judge.loss(np.asarray(mixed)) > losses[first]:
        weights = np.zeros(len(forecasts))
        weights[first] = 1.0
    return weights
