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

    @classmethod
    def of(cls, panel: Panel, per_series: bool = True) -> Scale:
        shape = (panel.n_series, panel.targets.shape[1])
        loc, scale = np.zeros(shape), np.ones(shape)
        if per_series:
            for i in range(panel.n_series):
                loc[i], scale[i] = _moments(panel.targets[panel.series(i)])
        covariates = (*_moments(panel.past), *_moments(panel.known), *_moments(panel.static))
        return cls(loc, scale, *covariates, per_series)

    def on(self, panel: Panel) -> Scale:
        new = Scale.of(panel, self.per_series)
        return replace(self, target_loc=new.target_loc, target_scale=new.target_scale)

    def following(self, panel: Panel) -> Scale:
        n = len(self.target_loc)
        if panel.n_series == n:
            return self
        new = Scale.of(panel, self.per_series)
        return replace(
            self,
            target_loc=np.concatenate([self.target_loc, new.target_loc[n:]]),
            target_scale=np.concatenate([self.target_scale, new.target_scale[n:]]),
        )

    def known(self, values):
        return (values - self.known_loc) / self.known_scale

    def past(self, values):
        return (values - self.past_loc) / self.past_scale

    def static(self, values):
        return (values - self.static_loc) / self.static_scale
