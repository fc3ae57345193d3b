"""Pictures of forecasts. matplotlib is imported on first use (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError, optional_import

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["forecast_figure", "plot_forecast"]

_FORECAST = "#1f6fb4"


def plot_forecast(
    history: pd.Series | pd.DataFrame | None,
    forecast: pd.Series | pd.DataFrame,
    truth: pd.Series | pd.DataFrame | None = None,
    ax: Axes | None = None,
    *,
    intervals: pd.DataFrame | np.ndarray | None = None,
    target: Any = None,
    series: Any = None,
    tail: int | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the end of a history, the forecast after it and its intervals.

    Parameters
    ----------
    history : Series, DataFrame or None
        What was observed, such as ``forecaster.history()``; None draws the forecast alone.
    forecast : Series or DataFrame
        What ``forecaster.forecast()`` returned. With quantiles (columns ``(target, quantile)``) the
        median, or the mean of the two quantiles around it, is the line, and quantiles that lie
        symmetrically make the bands.
    truth : Series or DataFrame, optional
        What came in the end, drawn over the forecast.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of pyplot.
    intervals : DataFrame or ndarray, shape (n_steps, 2), optional
        Lower and upper bounds for the rows of ``forecast``, as ``predict_interval`` returns them;
        or a frame of quantiles.
    target : hashable, optional
        Which column to draw; needed where there are several.
    series : hashable, optional
        Which series of a panel to draw; needed where there are several.
    tail : int, optional
        How many rows of the history to draw; by default four times the steps of the forecast, at
        least 48.
    title : str, optional
        Title; by default the series' name.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If it is not clear which column or series is meant, or the intervals do not fit.
    OptionalDependencyError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> days = pd.date_range("2024-01-01", periods=12, name="day")
    >>> sales = pd.Series(range(12), index=days, name="sales", dtype=float)
    >>> ax = Figure().add_subplot()
    >>> plot_forecast(sales[:9], sales[9:], ax=ax) is ax
    True
    >>> [line.get_label() for line in ax.lines]
    ['observed', 'forecast']
    """
    line = _pick(forecast, target, series, "forecast")
    bands = []
    if isinstance(line, pd.DataFrame):
        name = forecast.columns[0][0] if target is None else target
        bands, line = _bands(line), _centre(line).rename(name)
    if intervals is not None:
        bands = _given_bands(intervals, line, target, series)
    past = None if history is None else _pick(history, target, series, "history")
    then = None if truth is None else _pick(truth, target, series, "truth")
    if past is not None:
        past = past.iloc[-(tail if tail is not None else max(48, 4 * len(line))) :]
    if ax is None:
        pyplot = optional_import("matplotlib.pyplot", "plot", "plot_forecast")
        ax = pyplot.subplots(figsize=(9, 3.6), layout="constrained")[1]
    # wide bands first, so that the narrow ones stay visible on top
    for k, (coverage, low, high) in enumerate(sorted(bands, key=lambda band: -(band[0] or 0.0))):
        label = "interval" if coverage is None else f"{100 * coverage:.4g} % interval"
        style: dict[str, Any] = {"color": _FORECAST, "alpha": min(0.2 + 0.15 * k, 0.8), "lw": 0}
        ax.fill_between(_x(line.index), low, high, label=label, **style)
    marker = "o" if len(line) == 1 else None
    lines: list[tuple[str, Any, dict[str, Any]]] = [
        ("observed", past, {"color": "0.35", "lw": 1.2}),
        ("forecast", line, {"color": _FORECAST, "lw": 1.8, "marker": marker}),
        ("truth", then, {"color": "black", "lw": 1.0, "ls": "--"}),
    ]
    for label, rows, style in lines:
        if rows is not None:
            ax.plot(_x(rows.index), rows.to_numpy(float), label=label, **style)
    _dress(ax, line, title if title is not None else series)
    return ax


def forecast_figure(
    history: pd.DataFrame | None,
    forecast: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    *,
    intervals: pd.DataFrame | None = None,
    tail: int | None = None,
    max_panels: int = 6,
) -> Figure:
    """Draw every series and target of a forecast, one below the other.

    Parameters
    ----------
    history, forecast, truth, intervals, tail
        As for :func:`plot_forecast`; ``intervals`` is a frame of quantiles, columns ``(target,
        quantile)``, with the rows of ``forecast``.
    max_panels : int, default=6
        How many are drawn at most.

    Returns
    -------
    matplotlib.figure.Figure
        A figure that pyplot does not know of: save it with ``savefig``.

    Raises
    ------
    OptionalDependencyError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=12, name="day")
    >>> both = pd.DataFrame({"sales": range(12), "visits": range(12)}, index=days)
    >>> len(forecast_figure(both[:9], both[9:]).axes)
    2
    """
    figure_module = optional_import("matplotlib.figure", "plot", "forecast_figure")
    names = [None] if forecast.index.nlevels == 1 else forecast.index.unique(0)
    columns = forecast.columns.unique(0)
    cells = [(name, column) for name in names for column in columns][:max_panels]
    figure = figure_module.Figure(figsize=(9, 0.9 + 2.7 * len(cells)), layout="constrained")
    axes = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
    for ax, (name, column) in zip(axes, cells, strict=True):
        plot_forecast(
            history, forecast, truth, ax,
            intervals=intervals, target=column, series=name, tail=tail,
        )  # fmt: skip
        if ax is not axes[0]:
            ax.get_legend().remove()
    return figure


def _choose(names: pd.Index, wanted: Any, what: str, parameter: str) -> Any:
    """The wanted one of ``names``, or the only one."""
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    if wanted is None and len(names) > 1:
        raise DataError(f"{what} holds more than one {parameter} ({shown}): pass {parameter}=")
    if wanted is not None and wanted not in names:
        raise DataError(f"{what} holds no {parameter} {wanted!r}, but {shown}")
    return names[0] if wanted is None else wanted


def _one_series(table: Any, series: Any, what: str) -> Any:
    if table.index.nlevels == 1:
        return table
    return table.xs(_choose(table.index.unique(0), series, what, "series"), level=0)


def _pick(table: Any, target: Any, series: Any, what: str) -> Any:
    """Reduce to one series and one target: a Series, or a frame with one column per quantile."""
    table = _one_series(table, series, what)
    if isinstance(table, pd.Series):
        return table
    return table[_choose(table.columns.unique(0), target, what, "target")]


def _centre(quantiles: pd.DataFrame) -> pd.Series:
    """Median, or the mean of its two neighbours."""
    distance = np.round(np.abs(np.asarray(quantiles.columns, dtype=float) - 0.5), 9)
    return quantiles.loc[:, distance == distance.min()].mean(axis=1, skipna=False)


def _bands(quantiles: pd.DataFrame) -> list[tuple[float | None, np.ndarray, np.ndarray]]:
    """Pair the quantiles a and 1 - a: coverage, lower, upper."""
    levels, values = np.asarray(quantiles.columns, dtype=float), quantiles.to_numpy(float)
    pairs = np.argwhere(np.isclose(levels[:, None], 1 - levels) & (levels[:, None] < 0.5))
    return [(1 - 2 * float(levels[i]), values[:, i], values[:, j]) for i, j in pairs]


def _given_bands(intervals: Any, line: pd.Series, target: Any, series: Any) -> list:
    """Bands of a frame of quantiles, or of lower and upper bounds for the rows of ``line``."""
    if isinstance(intervals, pd.DataFrame) and intervals.columns.nlevels > 1:
        bands = _bands(_pick(intervals, target, series, "intervals"))
    else:
        if isinstance(intervals, pd.DataFrame):
            intervals = _one_series(intervals, series, "intervals")
        bounds = np.asarray(intervals, dtype=float)
        if bounds.ndim != 2 or bounds.shape[1] != 2:
            expected = f"the shape ({len(line)}, 2), lower and upper"
            raise DataError(f"intervals needs {expected}. Got {bounds.shape}")
        bands = [(None, *bounds.T)]
    if any(len(low) != len(line) for _, low, _ in bands):
        expected = f"one row for each of the {len(line)} rows of the forecast"
        raise DataError(f"intervals needs {expected}. Got {len(bands[0][1])}")
    return bands


def _x(index: pd.Index) -> np.ndarray:
    """Positions on the time axis: local clock time where there is a zone."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    return (index.tz_localize(None) if getattr(index, "tz", None) else index).to_numpy()


def _dress(ax: Axes, line: pd.Series, title: Any) -> None:
    """Axis labels, dates, legend."""
    dates = optional_import("matplotlib.dates", "plot", "plot_forecast")
    if isinstance(line.index, pd.DatetimeIndex | pd.PeriodIndex):
        locator = ax.xaxis.get_major_locator()
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    else:
        ax.set_xlabel(str(line.index.name or "step"))
    ax.set_ylabel("" if line.name is None else str(line.name))
    if title is not None:
        ax.set_title(str(title), loc="left", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    ax.margins(x=0.01)
    ax.legend(frameon=False, ncols=6, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
