"""Forecasts beside what came, and what their errors look like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_quantiles
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError, optional_import
from rnnforecast.inspection.display import Display, autocorrelation, tidy, time_axis
from rnnforecast.metrics.wrappers import Unwrapped
from rnnforecast.plotting import plot_forecast

__all__ = ["ForecastDisplay", "ResidualDisplay"]

_ORIGINS = 1000  # the newest ones
_PANELS = 6


def _forecaster(owner: str, estimator: Any, X: Any) -> Unwrapped:
    """What is inside a fitted estimator that ends in a forecaster."""
    found = Unwrapped(estimator, X)
    if not hasattr(found.forecaster, "rolling_forecast"):
        raise DataError(
            f"{owner} takes a fitted forecaster or baseline of rnnforecast, alone or in a "
            f"Pipeline, TransformedTargetRegressor or search. Got {type(found.forecaster).__name__}"
        )
    check_is_fitted(found.forecaster)
    return found


def _outside(found: Unwrapped, values: np.ndarray) -> np.ndarray:
    """Values (..., targets) in the unit of the outermost estimator."""
    return found.to_outside(values.reshape(-1, values.shape[-1])).reshape(values.shape)


def _panels(owner: str, model: Any, series: Any, target: Any) -> list[tuple[Any, Any]]:
    """Pairs of series and target to draw."""
    ids = model.panel_.ids.tolist() if model.panel_.is_panel else [None]
    chosen = []
    for what, given, known in (("series", series, ids), ("target", target, model.target_names_)):
        wanted = known if given is None else given if isinstance(given, list) else [given]
        if not set(wanted) <= set(known):
            raise DataError(f"{owner}: {what} must be some of {known[:6]}. Got {given!r}")
        chosen.append(wanted)
    return [(one, other) for one in chosen[0] for other in chosen[1]]


class ForecastDisplay(Display):
    """History, forecast, intervals and truth, a panel for each series and target.

    Parameters
    ----------
    history, forecast, intervals, truth : DataFrame
        As :func:`rnnforecast.plotting.plot_forecast` takes them, intervals as quantiles; no truth
        is None.
    panels : list of (series, target)
        What is drawn.
    tail : int, optional
        Rows of the history that are drawn.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import NaiveForecaster
    >>> from rnnforecast.inspection import ForecastDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> display = ForecastDisplay.from_estimator(NaiveForecaster(horizon=5).fit(df[:75]), df[75:])
    >>> display.forecast.shape, display.truth.shape
    ((5, 1), (5, 1))
    """

    title: str
    history: pd.DataFrame
    forecast: pd.DataFrame
    intervals: pd.DataFrame
    truth: pd.DataFrame | None
    panels: list[tuple[Any, Any]]
    tail: int | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        coverage: Any = (0.5, 0.9),
        series: Any = None,
        target: Any = None,
        tail: int | None = None,
    ) -> ForecastDisplay:
        """Forecast the next steps.

        Parameters
        ----------
        estimator : forecaster
            Fitted, alone or in a Pipeline, TransformedTargetRegressor or search.
        X, y : optional
            The rows to come: known covariates, and the truth where their targets are there. As
            many steps are forecast as X has rows of a series; the forecaster's horizon if None.
        coverage : float or sequence of float, default=(0.5, 0.9)
            Of the intervals. A forecaster that was trained on quantiles shows those.
        series, target : hashable or list, optional
            Which to draw, the first six at most; all if None.
        tail : int, optional
            Rows of the history to draw; four horizons, at least 48, if None.
        """
        found = _forecaster(cls.__name__, estimator, X)
        model, X = found.forecaster, found.X
        names, known = model.target_names_, X if model.roles_.known else None
        rows = None if X is None else model._rows_of(X)
        horizon = model.horizon if rows is None else max(int(rows.steps.max()), 1)
        levels = getattr(getattr(model, "output_", None), "levels", None)
        if levels is None:
            shares = np.atleast_1d(np.asarray(coverage, dtype=float))
            levels = np.r_[(1 - shares) / 2, (1 + shares) / 2].round(12)
        levels = check_quantiles(cls.__name__, levels)
        table = model.forecast(known, horizon=horizon)
        table[:] = _outside(found, table.to_numpy())
        bands = model.forecast(known, horizon=horizon, quantiles=levels)
        values = bands.to_numpy().reshape(len(bands), len(names), -1).swapaxes(1, 2)
        # a decreasing target transformer turns the order of quantiles round
        values = np.sort(_outside(found, values), axis=1).swapaxes(1, 2)
        bands[:] = values.reshape(bands.shape)
        truth = None
        if rows is not None and (y is not None or set(names) <= set(getattr(X, "columns", []))):
            # y is outside, and X has no transformer
            observed = np.asarray(model._truth(X, y), float).reshape(-1, len(names))
            place, new = rows.series * horizon + rows.steps - 1, rows.steps > 0
            truth = pd.DataFrame(np.nan, table.index, names)
            truth.iloc[place[new]] = observed[new]
            truth = truth.dropna(how="all")
        panels = _panels(cls.__name__, model, series, target)[:_PANELS]
        return cls(
            history=found.history(),
            forecast=table,
            intervals=bands,
            truth=truth,
            panels=panels,
            tail=tail,
            title=type(model).__name__,
        )

    def plot(self, ax: Any = None) -> ForecastDisplay:
        super().plot(ax)
        if ax is None and len(self._layout()[0][0]) > 1:
            lines = self.ax_[0].get_legend_handles_labels()
            self.figure_.legend(*lines, loc="outside upper right", ncols=6, frameon=False)
            self.figure_.suptitle(self.title, x=0.01, ha="left", fontsize="medium")
        return self

    def _layout(self) -> Any:
        n, wide = len(self.panels), 1 if len(self.panels) < 3 else 2
        names = [f"panel {k}" for k in range(n)] + [f"panel {n - 1}"] * (-n % wide)
        mosaic = [names[k : k + wide] for k in range(0, len(names), wide)]
        return mosaic, (7.0 + 2 * wide, 0.6 + 2.7 * len(mosaic))

    def _draw(self, ax: Any, part: str) -> None:
        k = int(part.removeprefix("panel "))
        series, target = self.panels[k]
        truth = self.truth
        if truth is not None and series is not None and series not in truth.index.unique(0):
            truth = None
        title = self.title if series is None else str(series)
        options: dict[str, Any] = {"target": target, "series": series, "tail": self.tail}
        options["intervals"] = self.intervals
        plot_forecast(self.history, self.forecast, truth, ax, title=title, **options)
        if k or len(self._layout()[0][0]) > 1:
            ax.get_legend().remove()


class ResidualDisplay(Display):
    """Errors of forecasts from every origin of one series, truth minus forecast.

    Four parts: errors one step ahead; their autocorrelation, with the bounds of white noise; their
    quantiles beside those of the normal distribution; the spread at each step ahead.

    Parameters
    ----------
    residuals : DataFrame
        Indexed by the stamp of the first row forecast, a column for each step ahead.
    acf : Series
        Autocorrelation of step 1 by lag, NaN left out; NaN where it never changes.
    bound : float
        Of 95 % of the autocorrelations of white noise, 1.96 / sqrt(n).
    in_sample : bool
        Whether the rows are those that were trained on.
    title, unit : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import NaiveForecaster
    >>> from rnnforecast.inspection import ResidualDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = NaiveForecaster(horizon=2).fit(df[:60])
    >>> ResidualDisplay.from_estimator(fc, df[60:]).residuals.shape
    (19, 2)
    """

    title: str
    residuals: pd.DataFrame
    acf: pd.Series
    bound: float
    in_sample: bool
    unit: str

    _mosaic = [["time", "time"], ["acf", "qq"], ["horizon", "horizon"]]
    _size = (9.0, 8.4)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        series: Any = None,
        target: Any = None,
    ) -> ResidualDisplay:
        """Forecast from every origin, the newest 1000 at most, and compare.

        Parameters
        ----------
        estimator : forecaster
            Fitted, alone or in a Pipeline, TransformedTargetRegressor or search.
        X, y : optional
            Observed rows after the history, as ``rolling_forecast`` takes them. None: the rows of
            the history itself, in sample.
        series, target : hashable, optional
            Which one; the first if None.
        """
        owner = cls.__name__
        found = _forecaster(owner, estimator, X)
        model = found.forecaster
        if y is not None:
            for transformer in reversed(found.transformers):
                y = transformer.transform(np.asarray(y, float).reshape(len(y), -1))
        view = model if X is None else model._at(model._extended(found.X, y))
        panel, horizon = view.panel_, model.horizon
        name, column = _panels(owner, view, series, target)[0]
        i = 0 if name is None else panel.ids.tolist().index(name)
        j, n = model.target_names_.index(column), int(panel.lengths[i])
        first = min(max(getattr(model, "lookback_", n // 4), 1), n // 2)
        if X is not None and i < model.panel_.n_series:
            first = int(model.panel_.lengths[i])
        windows = WindowIndex.between(np.array([first]), np.array([n]), horizon)
        if len(windows) < 2:
            raise DataError(
                f"{owner} needs {horizon + 1} rows of {panel.label(i)} to forecast (horizon "
                f"{horizon}). Got {n - first}"
            )
        _, origins = windows[np.arange(len(windows))[-_ORIGINS:]]
        numbers = np.full(len(origins), i)
        rows = (panel.indptr[i] + origins)[:, None] + np.arange(horizon)
        forecast = view._forecast(panel, numbers, origins, horizon, panel.known[rows])
        truth = _outside(found, panel.targets[rows].astype(float))
        values = (truth - _outside(found, forecast.point.cpu().numpy()))[..., j]
        steps = pd.RangeIndex(1, horizon + 1, name="step")
        index = panel.stamps_at(numbers, origins)
        n_seen = max(int((~np.isnan(values[:, 0])).sum()), 1)
        return cls(
            residuals=pd.DataFrame(values, index=index, columns=steps),
            acf=autocorrelation(pd.Series(values[:, 0])),
            bound=1.96 / math.sqrt(n_seen),
            in_sample=X is None,
            title=", ".join(str(p) for p in (type(model).__name__, name) if p is not None),
            unit=str(column),
        )

    def _draw_time(self, ax: Any) -> None:
        first = self.residuals.iloc[:, 0]
        ax.axhline(0, color="0.6", lw=0.8)
        ax.plot(time_axis(ax, first.index), first, color="C0", lw=0.9)
        ax.margins(x=0.01)
        where = "in sample" if self.in_sample else "new rows"
        title = f"{self.title}: errors one step ahead, {where}"
        tidy(ax, title, str(first.index.name or ""), f"truth − forecast, {self.unit}")

    def _draw_acf(self, ax: Any) -> None:
        ax.axhspan(-self.bound, self.bound, color="0.88", lw=0, label="95 % of white noise")
        ax.vlines(self.acf.index[1:], 0, self.acf[1:], color="C0")
        ax.plot(self.acf.index[1:], self.acf[1:], "o", color="C0", ms=3)
        ax.axhline(0, color="0.6", lw=0.8)
        most = np.fmax(self.acf[1:].abs().max(), self.bound) * 1.15
        ax.set_ylim(-most, most)
        tidy(ax, "", "lag in rows", "autocorrelation", legend=True)

    def _draw_qq(self, ax: Any) -> None:
        stats = optional_import("scipy.stats", "plot", type(self).__name__)
        values = self.residuals.iloc[:, 0].dropna()
        (normal, ordered), (slope, middle, _) = stats.probplot(values)
        ax.plot(normal, middle + slope * normal, color="0.6", lw=0.8, label="normal distribution")
        ax.plot(normal, ordered, ".", color="C0", ms=4)
        tidy(ax, "", "quantile of a standard normal", f"error, {self.unit}", legend=True)

    def _draw_horizon(self, ax: Any) -> None:
        table = self.residuals.quantile([0.05, 0.25, 0.5, 0.75, 0.95])
        x = table.columns.to_numpy()
        wide = max(1.0, min(8.0, 160 / len(x)))
        ax.axhline(0, color="0.6", lw=0.8)
        ax.vlines(x, table.loc[0.05], table.loc[0.95], color="C0", lw=1, label="5 to 95 %")
        style: dict[str, Any] = {"color": "C0", "alpha": 0.5, "lw": wide}
        ax.vlines(x, table.loc[0.25], table.loc[0.75], label="25 to 75 %", **style)
        ax.plot(x, table.loc[0.5], "k_", ms=6, label="median")
        ax.set_xticks(x[:: max(len(x) // 12, 1)])
        ax.set_xlim(0.5, len(x) + 0.5)
        tidy(ax, "by step ahead", "step ahead in rows", f"error, {self.unit}", legend=True)
