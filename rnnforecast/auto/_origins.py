"""Rolling origins inside the training rows: what candidates are fitted on and judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rnnforecast.data.panel import Panel

__all__ = ["Origins", "cut", "pick", "plan_origins"]

_ENOUGH = 200  # forecast values that judge well enough
_MOST = 30
_MOST_OF_FEW = 3  # where many values come from few origins, they say little about other days
_FEW_SERIES = 10


@dataclass(frozen=True)
class Origins:
    """The last ``n_origins * n_steps`` rows of each judged series, in blocks of ``n_steps``.

    Attributes
    ----------
    n_origins : int
    n_steps : int
        Steps forecast from each origin: the horizon, or fewer where the series are short. The next
        origin lies as many steps later.
    series : ndarray of int, shape (n_judged,)
        The series that are long enough to be judged; may be empty.
    """

    n_origins: int
    n_steps: int
    series: np.ndarray

    @property
    def n_held(self) -> int:
        """Rows of a judged series that the candidates are not fitted on."""
        return self.n_origins * self.n_steps

    def panel(self, panel: Panel, origin: int) -> Panel:
        """``panel`` as it stood at an origin, 0 for the first; series not judged are whole."""
        lengths = panel.lengths.copy()
        lengths[self.series] -= (self.n_origins - origin) * self.n_steps
        return cut(panel, lengths)

    def blocks(self, panel: Panel, values: np.ndarray) -> np.ndarray:
        """Held-out rows of ``values``, one row for each row of ``panel``.

        Returns
        -------
        ndarray, shape (n_judged, n_origins, n_steps, n_columns)
        """
        ends = panel.indptr[self.series + 1]
        rows = ends[:, None] - self.n_held + np.arange(self.n_held)
        shape = (len(self.series), self.n_origins, self.n_steps, values.shape[1])
        return values[rows].reshape(shape)


def plan_origins(panel: Panel, horizon: int, n_origins: int | None = None) -> Origins:
    """Choose the origins from the lengths of the series.

    As many as give 200 forecast values over all series, at least three for a panel of up to ten
    series and one beyond, at most 30, and never more than a quarter of the rows of the median
    series. Series shorter than twice the rows held out, or with fewer than two observed values of
    a target before the first origin, are not judged.

    Parameters
    ----------
    panel : Panel
    horizon : int
    n_origins : int, optional
        As many, if the series are long enough.
    """
    typical = int(np.median(panel.lengths))
    n_steps = min(horizon, max(typical // 4, 1))
    wanted = n_origins
    if wanted is None:
        least = _MOST_OF_FEW if panel.n_series <= _FEW_SERIES else 1
        wanted = min(max(-(-_ENOUGH // (panel.n_series * n_steps)), least), _MOST)
    n_origins = max(min(wanted, typical // (4 * n_steps)), 1)
    n_held = n_origins * n_steps
    observed = np.concatenate(
        [np.zeros((1, panel.targets.shape[1]), int), panel.mask.cumsum(axis=0)]
    )
    starts, ends = panel.indptr[:-1], panel.indptr[1:]
    edges = np.maximum(ends - n_held, starts)
    before = (observed[edges] - observed[starts]).min(axis=1)
    after = (observed[ends] - observed[edges]).max(axis=1)
    judged = (panel.lengths >= 2 * n_held) & (before >= 2) & (after >= 1)
    return Origins(n_origins, n_steps, np.flatnonzero(judged))


def cut(panel: Panel, lengths: np.ndarray) -> Panel:
    """The first ``lengths[i]`` rows of each series i."""
    if (lengths == panel.lengths).all():
        return panel
    return pick(panel, np.arange(panel.n_series), lengths)


def pick(panel: Panel, series: np.ndarray, lengths: np.ndarray) -> Panel:
    """The first ``lengths[k]`` rows of series ``series[k]``, as a panel.

    Parameters
    ----------
    panel : Panel
    series : ndarray of int, shape (s,)
    lengths : ndarray of int, shape (s,)

    Returns
    -------
    Panel
    """
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.repeat(panel.indptr[series] - indptr[:-1], lengths) + np.arange(indptr[-1])
    absent = None if panel.absent is None else panel.absent[rows]
    return replace(
        panel,
        targets=panel.targets[rows],
        past=panel.past[rows],
        known=panel.known[rows],
        static=panel.static[series],
        indptr=indptr,
        ids=panel.ids[series],
        starts=None if panel.starts is None else panel.starts[series],
        stamps=None if panel.stamps is None else panel.stamps[rows],
        absent=absent if absent is not None and absent.any() else None,
    )
