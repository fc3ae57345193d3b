"""Provisional."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rnnforecast.data.panel import Panel


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    means, spreads = np.zeros(values.shape[1]), np.ones(values.shape[1])
    for j, column in enumerate(values.T):
        seen = column[~np.isnan(column)].astype(np.float64, copy=False)
        if len(seen) == 0:
            continue
        means[j] = seen.mean()
        seen = seen - means[j]
        largest = np.abs(seen).max()
        if not 1e-140 < largest < 1e140:
            seen /= largest or 1.0
        else:
            largest = 1.0
        spread = largest * np.sqrt(np.square(seen).mean())
        if spread > 1e-12 * max(abs(means[j]), 1e-300):
            spreads[j] = spread
    return means, spreads


def _by_series(values, owner, n):
    seen = ~np.isnan(values)
    total = np.bincount(owner[seen], values[seen], minlength=n)
    return total / np.maximum(np.bincount(owner[seen], minlength=n), 1)


@dataclass(frozen=True)
class Scale:
    target_loc: np.ndarray
    target_scale: np.ndarray
    past_loc: np.ndarray
    past_scale: np.ndarray
    known_loc: np.ndarray
    known_scale: np.ndarray
    static_loc: np.ndarray
    static_scale: np.ndarray
    per_series: bool = True
    log: bool = False
    lag: int | None = None
    floor: np.ndarray | None = None

    def targets(self, values, series):
        """Scale (k, time, n_targets) of series (k,)."""
        if self.log:
            floor = self.floor[series][:, None]
            values = np.log(np.where(values <= 0, floor, values.astype(np.float64)))
        return (values - self.target_loc[series][:, None]) / self.target_scale[series][:, None]

    @classmethod
    def of(cls, panel: Panel, per_series: bool = True, log: bool = False, lag=None) -> Scale:
        if log or lag is not None:
            return cls._seasonal(panel, log, lag or 1)
        shape = (panel.n_series, panel.targets.shape[1])
        loc, scale = np.zeros(shape), np.ones(shape)
        if per_series:
            for i in range(panel.n_series):
                loc[i], scale[i] = _moments(panel.targets[panel.series(i)])
        covariates = (*_moments(panel.past), *_moments(panel.known), *_moments(panel.static))
        return cls(loc, scale, *covariates, per_series)

    @classmethod
    def _seasonal(cls, panel, log, lag):
        n = panel.n_series
        owner = np.repeat(np.arange(n), panel.lengths)
        own = np.arange(len(owner)) - panel.indptr[owner]
        lags = np.where(panel.lengths > lag, lag, 1)[owner]
        later = np.flatnonzero(own >= lags)
        before = later - lags[later]
        loc, scale, floor = (np.ones((n, panel.targets.shape[1])) for _ in range(3))
        for j, y in enumerate(panel.targets.astype(np.float64).T):
            seen = y[~np.isnan(y)]
            if log:
                positive = np.where(y > 0, y, np.inf)
                least = np.minimum.reduceat(positive, panel.indptr[:-1])
                floor[:, j] = np.where(np.isinf(least), 1.0, least)
                y = np.log(np.where(y <= 0, floor[owner, j], y))
            mean = _by_series(y, owner, n)
            loc[:, j] = mean
            size = _by_series(np.abs(y[later] - y[before]), owner[later], n)
            far = np.abs(y - mean[owner])
            largest = np.zeros(n)
            np.fmax.at(largest, owner, far)
            unit = np.where(largest > 0, largest, 1.0)
            spread = unit * np.sqrt(_by_series((far / unit[owner]) ** 2, owner, n))
            rounding = 1e-9 * np.maximum(np.abs(mean), 1e-300)
            scale[:, j] = np.where(spread > rounding, np.maximum(size, 1e-3 * spread), 1.0)
        covariates = (*_moments(panel.past), *_moments(panel.known), *_moments(panel.static))
        return cls(loc, scale, *covariates, True, log, lag, floor)

    def on(self, panel: Panel) -> Scale:
        new = Scale.of(panel, self.per_series, self.log, self.lag)
        return replace(
            self, target_loc=new.target_loc, target_scale=new.target_scale, floor=new.floor
        )

    def following(self, panel: Panel) -> Scale:
        n = len(self.target_loc)
        if panel.n_series == n:
            return self
        new = Scale.of(panel, self.per_series, self.log, self.lag)
        return replace(
            self,
            target_loc=np.concatenate([self.target_loc, new.target_loc[n:]]),
            target_scale=np.concatenate([self.target_scale, new.target_scale[n:]]),
            floor=None if self.floor is None else np.concatenate([self.floor, new.floor[n:]]),
        )

    def known(self, values):
        return (values - self.known_loc) / self.known_scale

    def past(self, values):
        return (values - self.past_loc) / self.past_scale

    def static(self, values):
        return (values - self.static_loc) / self.static_scale
