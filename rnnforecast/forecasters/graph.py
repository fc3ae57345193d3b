"""Series on a graph, forecast together: the diffusion-convolutional GRU for panels."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from rnnforecast._validation import check_bool, check_int
from rnnforecast.data.calendar import OffGridError
from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn.graph import GraphNetwork, GraphSpec
from rnnforecast.parameters import checked, estimator

__all__ = ["GraphGRUForecaster"]


@estimator
class GraphGRUForecaster(WindowForecaster):
    """Recurrent network that reads every series together with its neighbours on a graph (Li et al.
    2018, "DCRNN").

    It is the network of :class:`~rnnforecast.DeepGRUForecaster`, with weights that all series
    share; but each step of its recurrent layers mixes the series along random walks on the graph of
    1 to ``hops`` steps. Series are brought onto the time stamps of all (rows that one has not are
    masked), and a forecast uses no row of any series after its own origin. Each series keeps its
    own scale and its own covariates. Of several targets each is a node of the graph.

    The weights belong to these series: a history must have all of them and no other. Where series
    stand on calendars of their own (trading days), steps ahead are those of all series together.

    Parameters
    ----------
    adjacency : DataFrame or array-like, shape (n_series, n_series), optional
        Weights, 0 or more, with which the series of a row reads those of the columns: roads from
        sensor to sensor, nearness, trade. A frame is labelled by series (by targets, where there is
        one series; it may have more than there are), an array is in the order of the rows of fit.
        Walks go along the edges and against them. With several targets it joins targets of one
        name, unless it has a row for each series and target. None: learned.
    hops : int, default 2
        Steps of the longest walk.
    n_layers : int, default 2
    cell : {"gru"}
    batch_size : int, optional
        Times of a step, each with the windows of all series. None: a thousandth of the training
        rows, at least 32 and at most 128.
    calendar : bool, default True
        Tell the network the phase of the week and of the year at the origin of a forecast, where
        the rows show that they matter; see ``phases_``.

    Attributes
    ----------
    adjacency_ : DataFrame
        Weights of the edges, given or learned (rows then add up to 1; mean over members).
    series_ : Index
        Series of fit, in the order of the graph.

    References
    ----------
    Li, Yu, Shahabi & Liu 2018, "Diffusion convolutional recurrent neural network",
    arXiv:1707.01926, eq. 2 to 4; for the learned graph Wu et al. 2019, "Graph WaveNet",
    arXiv:1906.00121, eq. 5.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import GraphGRUForecaster
    >>> time = pd.date_range("2024-01-01", periods=60, freq="D")
    >>> index = pd.MultiIndex.from_product([["north", "south"], time], names=["place", "time"])
    >>> df = pd.DataFrame({"y": np.sin(np.arange(120.0))}, index=index)
    >>> road = pd.DataFrame([[0, 1], [1, 0]], index=["north", "south"], columns=["north", "south"])
    >>> fc = GraphGRUForecaster(horizon=3, adjacency=road, max_epochs=1, random_state=0).fit(df)
    >>> fc.forecast().shape
    (6, 1)
    """

    cell: Any = "gru"
    adjacency: Any = None
    hops: int = checked(2, check_int)
    n_layers: int = checked(2, check_int)
    calendar: bool = checked(True, check_bool)

    if TYPE_CHECKING:  # fitted, and so no parameter
        series_: pd.Index = field(init=False)

    # -- the graph ---------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        if self.cell != "gru":
            raise DataError(f"{type(self).__name__}: cell must be 'gru'. Got {self.cell!r}")

    @property
    def adjacency_(self) -> pd.DataFrame:
        """Weights of the edges, given or learned."""
        with torch.no_grad():
            each = [network.graph.adjacency().cpu().double() for network in self.networks_]
        nodes = self._nodes()
        return pd.DataFrame(torch.stack(each).mean(0).numpy(), index=nodes, columns=nodes)

    def _nodes(self) -> pd.Index:
        """Names of the nodes: series, targets of the one series there is, or both."""
        ids, targets = self.series_, pd.Index(self.target_names_, name="target")
        if not self.panel_.is_panel:
            return targets
        if len(targets) == 1:
            return ids
        every = ids.repeat(len(targets))
        levels = [every.get_level_values(k) for k in range(every.nlevels)]
        return pd.MultiIndex.from_arrays([*levels, np.tile(targets, len(ids))]).set_names(
            [*ids.names, "target"]
        )

    def _given(self) -> tuple[tuple[float, ...], ...] | None:
        """The adjacency of all nodes as plain numbers; None where it is learned."""
        given, nodes, n_targets = self.adjacency, self._nodes(), len(self.target_names_)
        if given is None:
            return None
        try:
            if isinstance(given, pd.DataFrame):
                names = nodes if set(nodes) <= set(given.index) else self.series_
                given = given.reindex(index=names, columns=names)
            weights = np.asarray(given, dtype=float)
        except (TypeError, ValueError):  # no numbers, or a name twice
            weights = np.empty(0)
        if n_targets > 1 and weights.shape == (len(self.series_),) * 2:
            weights = np.kron(weights, np.eye(n_targets))
        got, n = f"{type(given).__name__} of shape {np.shape(self.adjacency)}", len(nodes)
        if weights.shape == (n, n):
            wrong = np.argwhere(~(np.isfinite(weights) & (weights >= 0)))
            if not len(wrong):
                return tuple(map(tuple, weights.tolist()))
            i, j = wrong[0]
            got = f"{weights[i, j]} in row {nodes.tolist()[i]!r}, column {nodes.tolist()[j]!r}"
        raise DataError(
            f"{type(self).__name__}: adjacency must hold a finite number >= 0 for each pair of the "
            f"series of fit, shape {(n, n)}, and a frame must have their names. Got {got}"
        )

    def _admit(self, history: Panel) -> None:
        super()._admit(history)
        strange = history.ids.symmetric_difference(self.series_, sort=False)
        if len(strange) and not history.n_series == len(self.series_) == 1:
            name = strange.tolist()[0]
            raise DataError(
                f"{type(self).__name__}: series {name!r} is "
                f"{'new' if name in history.ids else 'missing'}: the graph joins the "
                f"{len(self.series_)} series of fit, all of which are read for each forecast. Pass "
                f"rows of all and of no other (NaN where nothing was observed), or fit again"
            )

    # -- fit ---------------------------------------------------------------------------------------

    def _choose(self, panel: Panel) -> dict[str, Any]:
        return {"series_": panel.ids, **super()._choose(aligned(panel)[0])}

    def _held_rows(self, panel: Panel, least: Any) -> np.ndarray:
        held = super()._held_rows(panel, least)
        return np.full_like(held, held.max())  # at the same times for all

    def _split(self, panel: Panel, lookback: int) -> tuple[WindowIndex, WindowIndex]:
        train, held = super()._split(panel, lookback)
        return _Times(train.first, train.counts), _Times(held.first, held.counts)

    def _job(self, panel: Panel) -> Any:
        self._given()  # is it usable?
        return super()._job(aligned(panel)[0])

    def _network(self, shape: dict[str, Any]) -> Any:
        several = shape["n_targets"] > 1
        return GraphNetwork(
            GraphSpec(
                **shape,
                season=self.seasonality_,
                n_layers=self.n_layers,
                bidirectional=False,
                residual=False,
                shift="mean" if self.scaler == "window" else "none",
                independent=several,
                n_nodes=len(self._nodes()),
                hops=self.hops,
                adjacency=self._given(),
            )
        )

    # -- forecasts ---------------------------------------------------------------------------------

    def _calibrate(self, panel: Panel, windows: WindowIndex) -> Any:
        return super()._calibrate(aligned(panel)[0], windows)

    def _numbers_a_forecast(self, network: Any) -> int:
        return super()._numbers_a_forecast(network) * network.spec.n_nodes

    def _order(self, history: Panel) -> np.ndarray:
        """Which series of a history stands where on the graph."""
        one = history.n_series == 1
        return np.zeros(1, np.int64) if one else history.ids.get_indexer(self.series_)

    def _average(self, history, series, origins, n_steps, known):
        """All series are forecast at each distinct time once, and those asked for are picked."""
        whole, at = aligned(history)
        first = history.indptr[:-1][series]
        newest = at[np.maximum(first + origins - 1, 0)]  # row that an origin knows last
        time = np.where(origins > 0, newest + 1, at[first])
        # a series that is asked for twice at a time, with other covariates, has two forecasts
        again = pd.Series(0, index=range(len(series))).groupby([series, time]).cumcount().to_numpy()
        most = len(series) + 1
        moments, place = np.unique(time * most + again, return_inverse=True)
        node = np.argsort(self._order(history))[series]
        ahead = np.full((len(moments), history.n_series, *known.shape[1:]), np.nan)
        ahead[place, node] = known
        forecast = super()._average(whole, np.zeros_like(moments), moments // most, n_steps, ahead)
        return forecast[place * history.n_series + node]

    def _blocks(self, member, history, series, origins, known):
        """Of every series at each of these times, in the order of the graph."""
        order = self._order(history)
        every, time = np.tile(order, len(origins)), np.repeat(origins, len(order))
        return super()._blocks(
            member, history, every, time, known.reshape(len(every), *known.shape[2:])
        )

    def stream(self, dtype: str = "float64") -> Any:
        """Raise DataError: series on a graph move on together, by ``update``."""
        raise DataError(
            f"{type(self).__name__}: series on a graph move on together, and a stream moves each "
            f"by itself: use update(rows) and forecast()"
        )

    def _describe(self) -> list[str]:
        kind = "learned" if self.adjacency is None else "known"
        return [*super()._describe(), f"{len(self._nodes())} nodes, {kind} graph"]


class _Times(WindowIndex):
    """Windows of all series of an aligned panel, each number those at one time."""

    def __len__(self) -> int:
        return int(self.counts[0])

    def __getitem__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(self.counts)
        origins = self.first[0] + np.asarray(numbers, dtype=np.int64) * self.stride
        return np.tile(np.arange(n), len(origins)), np.repeat(origins, n)

    def spread(self, most: int) -> np.ndarray:
        return super().spread(max(most // len(self.counts), 1))


def aligned(panel: Panel) -> tuple[Panel, np.ndarray]:
    """The panel with every series on the time stamps of all, NaN where it has no row, and the
    position there of each of its own rows. Rows without stamps are aligned at their start.
    """
    return panel.cached("aligned", lambda: _align(panel))


def _align(panel: Panel) -> tuple[Panel, np.ndarray]:
    n, owners = panel.n_series, np.repeat(np.arange(panel.n_series), panel.lengths)
    at = np.arange(len(owners)) - panel.indptr[owners]
    if n == 1:
        return panel, at
    starts, stamps = panel.starts, panel.stamps
    if stamps is not None:
        at, union = pd.factorize(stamps, sort=True)
        stamps, starts = union.take(np.tile(np.arange(len(union)), n)), union.take([0] * n)
    elif panel.calendar is not None and starts is not None:
        first = starts.argmin()
        try:
            at = at + panel.calendar.steps(starts[first], starts)[owners]
        except OffGridError as error:
            raise DataError(
                f"GraphGRUForecaster: {panel.label(error.row)}: series on a graph need one grid of "
                f"time stamps: {error}"
            ) from error
        starts = starts.take([first] * n)
    n_rows = int(at.max()) + 1

    def full(values: np.ndarray) -> np.ndarray:
        out = np.full((n * n_rows, values.shape[1]), np.nan, values.dtype)
        out[owners * n_rows + at] = values
        return out

    whole = replace(
        panel,
        targets=full(panel.targets),
        past=full(panel.past),
        known=full(panel.known),
        indptr=np.arange(n + 1) * n_rows,
        starts=starts,
        stamps=stamps,
        absent=None,
    )
    whole.cached("aligned", lambda: (whole, np.tile(np.arange(n_rows), n)))
    return whole, at
