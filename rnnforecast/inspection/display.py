"""What all displays share: numbers are computed first, and drawn when a picture is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError, optional_import
from rnnforecast.parameters import documented

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Display", "autocorrelation", "color_bar", "heat_map", "tidy", "time_axis"]

# of from_estimator: entries by parameter, sections by title
_TEXTS = {
    "estimator": """\
estimator : DeepRNNForecaster (or one of its named forms) or SegmentRNNForecaster
    Fitted, alone or in a Pipeline.""",
    "X": """\
X : DataFrame, optional
    Rows to look at instead of the history, as ``forecast(history=)`` takes them.""",
    "future": """\
future : DataFrame, optional
    Future rows of the known covariates, as ``forecast`` takes them; needed if there are any.""",
    "series": """\
series : hashable, optional
    Which series of a panel; None: all, or the first where one is shown.""",
    "target": """\
target : hashable, optional
    Which target; the first if None.""",
    "member": """\
member : int, default=0
    Which of several networks.""",
    "n_windows": """\
n_windows : int, default=64
    Windows at most, spread over the history.""",
    "random_state": """\
random_state : int, RandomState instance or None, default=None""",
    "Raises": """\
DataError
    If the estimator is another one, or an argument is out of its range or missing.""",
}


@dataclass_transform(kw_only_default=True, eq_default=False)
class Display:
    """A picture of one or more parts, each with axes of its own.

    A subclass becomes a dataclass. It has the places of its parts in ``_mosaic``, its size in
    inches, a class method ``from_estimator`` and a method ``_draw_<part>(ax)`` for each part.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes, or ndarray of them where several parts were drawn
    figure_ : matplotlib.figure.Figure
    """

    _mosaic: ClassVar[list[list[str]]]
    _size: ClassVar[tuple[float, float]] = (9.0, 3.6)

    def __init_subclass__(cls) -> None:
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        documented({**_TEXTS, "Returns": cls.__name__})(vars(cls)["from_estimator"].__func__)

    def plot(self, ax: Any = None) -> Any:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or sequence of them, optional
            Where to draw: one Axes takes the display's first part, a sequence as many as it has.
            None: a new figure of pyplot.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If there are more Axes than parts.
        OptionalDependencyError
            If matplotlib is not installed.
        """
        mosaic, size = self._layout()
        parts = list(dict.fromkeys(name for row in mosaic for name in row))
        if ax is None:
            pyplot = optional_import("matplotlib.pyplot", "plot", type(self).__name__)
            _, placed = pyplot.subplot_mosaic(mosaic, figsize=size, layout="constrained")
            axes = [placed[name] for name in parts]
        else:
            axes = np.ravel(np.array(ax, dtype=object)).tolist()
        if not 0 < len(axes) <= len(parts):
            raise DataError(
                f"{type(self).__name__}: ax must be 1 to {len(parts)} Axes, for {parts}. Got "
                f"{len(axes)}"
            )
        for name, each in zip(parts, axes):
            self._draw(each, name)
        self.figure_ = axes[0].figure
        self.ax_ = axes[0] if len(axes) == 1 else np.array(axes, dtype=object)
        return self

    def _layout(self) -> tuple[list[list[str]], tuple[float, float]]:
        return self._mosaic, self._size

    def _draw(self, ax: Any, part: str) -> None:
        getattr(self, f"_draw_{part}")(ax)


def autocorrelation(values: pd.Series) -> pd.Series:
    """By lag, up to 40 or half of the length; NaN for values that never change."""
    from statsmodels.tsa.stattools import acf

    lags = min(40, max(len(values) // 2, 1))
    if values.std(ddof=0) > 1e-12:
        missing = "conservative" if values.isna().any() else "none"
        return pd.Series(acf(values, nlags=lags, missing=missing)).rename_axis("lag")
    return pd.Series(np.full(lags + 1, np.nan)).rename_axis("lag")


def tidy(ax: Axes, title: str, x: str, y: str, legend: bool = False) -> None:
    """Title, labels of the axes, light lines; the legend above the data."""
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    if legend:
        anchor: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
        ax.legend(frameon=False, ncols=6, fontsize="small", **anchor)


def time_axis(ax: Axes, index: pd.Index) -> np.ndarray:
    """Positions of stamps on the x axis, which shows dates where they are dates."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if not isinstance(index, pd.DatetimeIndex):
        return index.to_numpy()
    dates = optional_import("matplotlib.dates", "plot", "a display")
    locator = dates.AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    return dates.date2num((index.tz_localize(None) if index.tz else index).to_numpy())


def heat_map(
    ax: Axes, x: np.ndarray, values: np.ndarray, label: str, diverging: bool = True
) -> None:
    """Colours of ``values: (rows, len(x))``, with a bar that says what they are."""
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    low, cmap = (-limit, "RdBu_r") if diverging else (0.0, "viridis")
    half = np.diff(x) / 2
    ends = half if len(half) else np.array([0.5])
    edges = np.r_[x[0] - ends[0], x[:-1] + half, x[-1] + ends[-1]]
    rows = np.arange(len(values) + 1) - 0.5
    color_bar(ax, ax.pcolormesh(edges, rows, values, cmap=cmap, vmin=low, vmax=limit), label)


def color_bar(ax: Axes, mappable: Any, label: str) -> None:
    """A bar for the colours of an Axes."""
    ax.figure.colorbar(mappable, ax=ax, label=label, pad=0.01, fraction=0.05)
