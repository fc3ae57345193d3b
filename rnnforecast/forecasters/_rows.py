"""From the rows of X to (series, step), and back: the bookkeeping of ``BaseForecaster``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError

__all__ = ["Rows", "future_known"]


@dataclass(frozen=True)
class Rows:
    """The rows that a prediction was asked for.

    Attributes
    ----------
    series : ndarray of int, shape (n,)
    steps : ndarray of int, shape (n,)
        1 is the first step after the series' history; 0 and below lie in it.
    known : ndarray, shape (n, n_known)
    """

    series: np.ndarray
    steps: np.ndarray
    known: np.ndarray

    def future(self, panel: Panel) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Future rows laid out by series and step.

        Returns
        -------
        unique : ndarray of int, shape (s,)
            The series that have future rows.
        n_steps : int
        known : ndarray, shape (s, n_steps, n_known)
            NaN at steps without a row.
        place : ndarray of int, shape (n_future,)
            Position of each future row's series in ``unique``.
        """
        ahead = self.steps > 0
        unique, place = np.unique(self.series[ahead], return_inverse=True)
        n_steps = int(self.steps[ahead].max())
        _check_once(panel, place * n_steps + self.steps[ahead])
        known = np.full((len(unique), n_steps, self.known.shape[1]), np.nan)
        known[place, self.steps[ahead] - 1] = self.known[ahead]
        return unique, n_steps, known, place

    def fill(self, panel: Panel, future: Callable, in_sample: Callable) -> np.ndarray:
        """Values of every row, in the order of X, from the two kinds of prediction."""
        ahead = self.steps > 0
        out: np.ndarray | None = None
        if ahead.any():
            unique, n_steps, known, place = self.future(panel)
            values = future(unique, n_steps, known)
            chosen = values[place, self.steps[ahead] - 1]
            out = np.empty((len(ahead), *chosen.shape[1:]))
            out[ahead] = chosen
        if not ahead.all():
            back = ~ahead
            series = self.series[back]
            positions = panel.lengths[series] - 1 + self.steps[back]
            values = in_sample(series, positions, self.known[back])
            if out is None:
                out = np.empty((len(ahead), *values.shape[1:]))
            out[back] = values
        assert out is not None
        return out


def _check_once(panel: Panel, places: np.ndarray) -> None:
    """Raise if two rows are the same step; on a grid of its own, rows between two steps may be."""
    own_grid = panel.calendar is not None and panel.calendar.own_grid
    if not own_grid and len(np.unique(places)) < len(places):
        raise DataError(
            "X has two rows for the same time stamp of a series: drop the repeated rows"
        )


def future_known(
    owner: str, panel: Panel, names: list, rows: Rows | None, n_steps: int
) -> np.ndarray:
    """Future covariates of every series for steps 1..n_steps, shape (n_series, n_steps, n_known).

    Where a step of a series has no row, the error names the first one.
    """
    if rows is None:
        raise DataError(
            f"{owner}: X must hold the future rows of the known covariates {names}. Got None"
        )
    known = np.full((panel.n_series, n_steps, len(names)), np.nan)
    given = np.zeros((panel.n_series, n_steps), dtype=bool)
    use = (rows.steps > 0) & (rows.steps <= n_steps)
    _check_once(panel, rows.series[use] * n_steps + rows.steps[use])
    known[rows.series[use], rows.steps[use] - 1] = rows.known[use]
    given[rows.series[use], rows.steps[use] - 1] = True
    if panel.calendar is not None and panel.calendar.own_grid:
        # a trading calendar's future holds holidays that have no row: only the end must be there
        given = np.maximum.accumulate(given[:, ::-1], axis=1)[:, ::-1]
    if not given.all():
        series, step = np.argwhere(~given)[0]
        stamp = panel.future_index(int(series), int(step) + 1)[-1]
        raise DataError(
            f"{owner}: {panel.label(int(series))}: the known covariates {names} have no row for "
            f"{stamp} (step {step + 1} of {n_steps}): pass X with {n_steps} future rows, or a "
            f"smaller horizon="
        )
    return known
