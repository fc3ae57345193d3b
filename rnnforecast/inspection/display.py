"""What all displays share: numbers are computed first, and drawn when a picture is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError, optional_import

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Display", "color_bar", "heat_map", "tidy", "time_axis"]


class Display:
    """A picture of one or more parts, each with axes of its own.

    A subclass has the places of its parts in ``_mosaic``, its size in inches, and a method
    ``_draw_<part>(ax)`` for each.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes, or ndarray of them where several parts were drawn
    figure_ : matplotlib.figure.Figure
    """

    _mosaic: ClassVar[list[list[str]]]
    _size: ClassVar[tuple[float, float]] = (9.0, 3.6)

    def plot(self, ax: Any = None, *, parts: Any = None) -> Any:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or sequence of them, optional
            Where to draw. One Axes takes the display's first part, or the one named in ``parts``;
            a sequence takes as many as it has. None: a new figure of pyplot.
        parts : str or sequence of str, optional
            Which parts to draw; all if None.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If there is no such part, or not one Axes for each.
        OptionalDependencyError
            If matplotlib is not installed.
        """
        owner = type(self).__name__
        known = list(dict.fromkeys(name for row in self._layout()[0] for name in row))
        names = [parts] if isinstance(parts, str) else list(known if parts is None else parts)
        if not names or not set(names) <= set(known):
            raise DataError(f"{owner}: parts must be some of {known}. Got {parts!r}")
        if ax is None:
            pyplot = optional_import("matplotlib.pyplot", "plot", owner)
            whole = parts is None
            mosaic, (width, height) = self._layout()
            mosaic = mosaic if whole else [[name] for name in names]
            size = (width, height if whole else 3.6 * len(names))
            _, placed = pyplot.subplot_mosaic(mosaic, figsize=size, layout="constrained")
            axes = [placed[name] for name in names]
        else:
            axes = [ax] if not np.iterable(ax) else np.ravel(np.asarray(ax, dtype=object)).tolist()
            names = names[: len(axes)] if parts is None else names
        if len(axes) != len(names):
            raise DataError(f"{owner}: {len(names)} parts need as many axes. Got {len(axes)}")
        for name, each in zip(names, axes):
            self._draw(each, name)
        self.figure_ = axes[0].figure
        self.ax_ = axes[0] if len(axes) == 1 else np.array(axes, dtype=object)
        return self

    def _layout(self) -> tuple[list[list[str]], tuple[float, float]]:
        return self._mosaic, self._size

    def _draw(self, ax: Any, part: str) -> None:
        getattr(self, f"_draw_{part}")(ax)


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


def time_axis(ax: Axes, index: pd.Index, axis: str = "x") -> np.ndarray:
    """Positions of stamps on an axis, which shows dates where they are dates."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if not isinstance(index, pd.DatetimeIndex):
        return index.to_numpy()
    dates = optional_import("matplotlib.dates", "plot", "a display")
    locator = dates.AutoDateLocator()
    own = getattr(ax, f"{axis}axis")
    own.set_major_locator(locator)
    own.set_major_formatter(dates.ConciseDateFormatter(locator))
    return dates.date2num((index.tz_localize(None) if index.tz else index).to_numpy())


def heat_map(
    ax: Axes, x: np.ndarray, values: np.ndarray, label: str, diverging: bool = True
) -> None:
    """Colours of ``values: (rows, len(x))``, with a bar that says what they are."""
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    colors: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    colors = colors if diverging else {"cmap": "viridis", "vmin": 0.0, "vmax": limit}
    half = np.diff(x) / 2
    ends = half if len(half) else np.array([0.5])
    edges = np.r_[x[0] - ends[0], x[:-1] + half, x[-1] + ends[-1]]
    mesh = ax.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, values, **colors)
    color_bar(ax, mesh, label)


def color_bar(ax: Axes, mappable: Any, label: str) -> Any:
    """A bar for the colours of an Axes."""
    return ax.figure.colorbar(mappable, ax=ax, label=label, pad=0.01, fraction=0.05)
