"""From the rows of X to (series, step): the bookkeeping of ``BaseForecaster``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError

__all__ = ["Rows", "future_known", "laid_out"]


class Rows(NamedTuple):
    """The rows that a prediction was asked for."""

    series: np.ndarray  # (n,)
    steps: np.ndarray  # (n,); 1 is the first after the series' history, 0 and below lie in it
    known: np.ndarray  # (n, n_known)


def laid_out(
    panel: Panel, place: np.ndarray, rows: Rows, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Covariates of future rows by place and step, (*shape, n_known), and where there is a row."""
    known = np.full((*shape, rows.known.shape[1]), np.nan)
    given = np.zeros(shape, dtype=bool)
    known[place, rows.steps - 1], given[place, rows.steps - 1] = rows.known, True
    own_grid = panel.calendar is not None and panel.calendar.own_grid
    # on a grid of its own, rows between two steps may be the same step
    if not own_grid and given.sum() < len(place):
        raise DataError(
            "X has two rows for the same time stamp of a series: drop the repeated rows"
        )
    return known, given


def future_known(
    owner: str, panel: Panel, names: list, rows: Rows | None, n_steps: int
) -> np.ndarray:
    """Future covariates of every series for steps 1..n_steps, (n_series, n_steps, n_known)."""
    if rows is None:
        raise DataError(
            f"{owner}: X must hold the future rows of the known covariates {names}. Got None"
        )
    use = (rows.steps > 0) & (rows.steps <= n_steps)
    rows = Rows(*(part[use] for part in rows))
    known, given = laid_out(panel, rows.series, rows, (panel.n_series, n_steps))
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
