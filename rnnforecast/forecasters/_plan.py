"""Automatic choices of the deep forecasters, and which windows train and which validate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.data.phases import CalendarPhases, choose_phases
from rnnforecast.data.seasonality import choose_lookback, choose_seasonality
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError

__all__ = ["Plan", "make_plan", "only_observed"]


@dataclass(frozen=True)
class Plan:
    """What a fit will do.

    Attributes
    ----------
    lookback, season : int
    phases : CalendarPhases or None
    train, validation : WindowIndex
        Validation windows forecast only the last rows of each series, training windows none of
        them.
    """

    lookback: int
    season: int
    phases: CalendarPhases | None
    train: WindowIndex
    validation: WindowIndex
    hidden_size: int | None = None  # of the fit that goes on, where the user names none

    def n_static(self, panel: Panel) -> int:
        """Constants of a window: static covariates and phases."""
        return panel.static.shape[1] + (0 if self.phases is None else self.phases.size)


def make_plan(
    owner: str,
    panel: Panel,
    horizon: int,
    lookback: int | None,
    seasonality: int | None,
    validation_fraction: float,
    calendar: bool = False,
) -> Plan:
    """Choose look-back and season, and split the windows of every series in time.

    ``lookback=None`` leaves the look-back to :func:`choose_lookback`; ``calendar`` has
    :func:`choose_phases` look for cycles of the calendar.

    Raises
    ------
    DataError
        If a series is too short for one window; the message names it.
    """
    season = choose_seasonality(panel) if seasonality is None else seasonality
    chosen = choose_lookback(panel, horizon, season) if lookback is None else lookback
    _check_length(owner, panel, chosen, horizon, lookback is None)
    # the last rows of a series validate, as far as one training window is left before them
    held = np.maximum(np.ceil(validation_fraction * panel.lengths).astype(np.int64), horizon)
    held = np.minimum(held, panel.lengths - (chosen + horizon))
    held = np.where((held >= horizon) & (validation_fraction > 0), held, 0)
    held = only_observed(panel, held)
    cut = panel.lengths - held
    first = np.full(panel.n_series, chosen)
    return Plan(
        chosen,
        season,
        choose_phases(panel, season) if calendar else None,
        WindowIndex.between(first, cut, horizon),
        WindowIndex.between(cut, panel.lengths, horizon),
    )


def only_observed(panel: Panel, held: np.ndarray) -> np.ndarray:
    """Rows to hold out at the end of each series; 0 where none of them was observed.

    Such rows tell nothing: their loss would be zero, the best there is.
    """
    seen = panel.observed(panel.lengths - held, panel.lengths).any(axis=1)
    return np.where(seen, held, 0)


def _check_length(owner: str, panel: Panel, lookback: int, horizon: int, automatic: bool) -> None:
    need = lookback + horizon
    short = panel.lengths < need
    if not short.any():
        return
    i = int(np.argmax(short))
    n = int(panel.lengths[i])
    rows = "1 row (n_samples=1)" if n == 1 else f"{n} rows"
    if n - horizon >= 1 and not automatic:
        remedy = f"use lookback <= {n - horizon}"
    elif panel.is_panel:
        remedy = "use a smaller horizon, or leave this series out"
    else:
        remedy = "use a smaller horizon, or more rows"
    raise DataError(
        f"{owner}: {panel.label(i)} has {rows}; lookback {lookback} + horizon {horizon} needs at "
        f"least "
        f"{need}: {remedy}"
    )
