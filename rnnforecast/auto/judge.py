"""Rolling origins inside the training rows, losses there, and the choice of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowIndex
from rnnforecast.metrics.terms import POINT_ERRORS, naive_scales, observed_mean

__all__ = ["METRICS", "Judge", "choose_weights", "first_rows", "plan_origins", "series_scales"]

METRICS = ("mase", "smape", "owa", "mae", "rmsse")

_ENOUGH = 200  # forecast values that judge well enough
_MOST_ORIGINS = 30
_MOST_OF_FEW = 3  # where many values come from few origins, they say little about other days
_FEW_SERIES = 10
_MOST_VALUES = 50_000  # forecast values that weights are chosen on: bounds the seconds for it
_MOST_ROUNDS = 30
_NEAR = 1.25  # times the best loss: forecasts beyond only help by chance
_LEAST_GAIN = 1e-4  # of the loss, for a larger ensemble


def plan_origins(panel: Panel, horizon: int, n_origins: int | None = None) -> WindowIndex:
    """Choose rolling origins from the lengths of the series, by the rule in `AutoForecaster`.

    The judged series have the same number of origins, the others none: those shorter than twice the
    rows held out, or with fewer than two observed values of a target before the first origin. From
    each ``stride`` steps are forecast: the horizon, or fewer where the series are short.
    """
    lengths, typical = panel.lengths, int(np.median(panel.lengths))
    n_steps = min(horizon, max(typical // 4, 1))
    if n_origins is None:
        least = _MOST_OF_FEW if panel.n_series <= _FEW_SERIES else 1
        n_origins = min(max(-(-_ENOUGH // (panel.n_series * n_steps)), least), _MOST_ORIGINS)
    n_origins = max(min(n_origins, typical // (4 * n_steps)), 1)
    first = lengths - n_origins * n_steps
    position = np.arange(len(panel.targets)) - np.repeat(panel.indptr[:-1], lengths)
    trained = (position < np.repeat(first, lengths))[:, None]
    before, after = (
        np.add.reduceat((panel.mask & part).astype(np.int64), panel.indptr[:-1])
        for part in (trained, ~trained)
    )
    long_enough = lengths >= 2 * n_origins * n_steps
    judged = long_enough & (before.min(axis=1) >= 2) & (after.max(axis=1) >= 1)
    return WindowIndex(first, np.where(judged, n_origins, 0), n_steps)


def first_rows(panel: Panel, series: np.ndarray, lengths: np.ndarray) -> Panel:
    """The first ``lengths[k]`` rows of series ``series[k]``, as a panel."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.repeat(panel.indptr[series] - indptr[:-1], lengths) + np.arange(indptr[-1])
    which = dict.fromkeys(("targets", "past", "known", "stamps", "absent"), rows)
    which |= dict.fromkeys(("static", "ids", "starts"), series)
    parts = {name: getattr(panel, name) for name in which}
    parts = {name: None if part is None else part[which[name]] for name, part in parts.items()}
    return replace(panel, indptr=indptr, **parts)


def series_scales(panel: Panel, season: int, power: int = 1) -> np.ndarray:
    """What MASE divides by, (n_series, n_targets); of one step for series within one season."""
    scales, short = naive_scales(panel, season, power), panel.lengths <= season
    return np.where(short[:, None], naive_scales(panel, 1, power), scales)


@dataclass(eq=False)
class Judge:
    """The loss of forecasts of held-out rows: of every series, then averaged over the series.

    Unobserved truths do not count, nor do series whose scale is zero (all of them then count
    without a scale).
    """

    metric: str
    truth: np.ndarray  # (n_series, n_origins, n_steps, n_targets)
    scale: np.ndarray  # (n_series, n_targets), of the absolute or the squared error
    reference: np.ndarray | None = None  # seasonal naive forecast: the unit of "owa"

    def loss(self, forecast: np.ndarray) -> float:
        """Mean loss of a forecast of the truth's shape; infinite where it is not finite."""
        if not np.isfinite(forecast[~np.isnan(self.truth)]).all():
            return float("inf")
        if self.metric != "owa":
            return self._mean(self.metric, forecast)
        # Makridakis, Spiliotis & Assimakopoulos 2020 (IJF 36(1)), with another reference
        assert self.reference is not None
        ratios = []
        for metric in ("smape", "mase"):
            value, unit = self._mean(metric, forecast), self._mean(metric, self.reference)
            ratios.append(value / unit if unit > 0 else 1.0 + value)
        return float(np.mean(ratios))

    def _mean(self, metric: str, forecast: np.ndarray) -> float:
        error = POINT_ERRORS[metric]
        by_target = observed_mean(error.term(self.truth, forecast), axis=(1, 2))
        scale: Any = 1.0
        if error.power:
            known = np.isfinite(self.scale) & np.isfinite(by_target)
            scale = np.where(known, self.scale, np.nan) if known.any() else scale
        by_target = error.of_mean(by_target, scale)
        return float(observed_mean(observed_mean(by_target, axis=1)))

    def thinned(self) -> tuple[Judge, slice]:
        """A judge of evenly spread series, few enough to be asked often, and which they are."""
        part = slice(None, None, max(-(-self.truth.size // _MOST_VALUES), 1))
        reference = None if self.reference is None else self.reference[part]
        return Judge(self.metric, self.truth[part], self.scale[part], reference), part


def choose_weights(judge: Judge, forecasts: Sequence[np.ndarray]) -> np.ndarray:
    """Weights of an ensemble of forecasts, chosen greedily with replacement; they sum to 1.

    Caruana, Niculescu-Mizil, Crew & Ksikes (2004), ICML, section 2.1, with the pruning of 2006,
    "Getting the most out of ensemble selection", ICDM, section 4.1. The best single forecast is the
    first ensemble, so that the best one is never worse than any of the forecasts on these rows.
    """
    small, part = judge.thinned()
    losses = np.array([judge.loss(forecast) for forecast in forecasts])
    losses[np.isnan(losses)] = np.inf
    first = int(np.argmin(losses))
    near = np.flatnonzero(losses <= _NEAR * losses[first]).tolist()
    thin = {k: forecasts[k][part] for k in near}
    drawn = np.eye(len(forecasts))[first]
    total, best, weights = thin[first], small.loss(thin[first]), drawn.copy()
    for n in range(2, _MOST_ROUNDS + 1):
        found = {k: small.loss((total + forecast) / n) for k, forecast in thin.items()}
        chosen = min(found, key=lambda k: found[k])
        drawn[chosen] += 1
        total = total + thin[chosen]
        if found[chosen] < best * (1 - _LEAST_GAIN):
            best, weights = found[chosen], drawn / n
    # on all series, where the weights came from a part of them
    mixed = np.sum([weights[k] * forecasts[k] for k in near if weights[k]], axis=0)
    if judge.loss(mixed) > losses[first]:
        weights = np.eye(len(forecasts))[first]
    return weights
