"""What a forecast is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, heat_map, tidy, time_axis
from rnnforecast.inspection.networks import read_windows

__all__ = ["AttributionDisplay"]

_PRECISE = 1e-5  # of the difference that is explained
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_LEAST = 2.0**-24  # length of a part of the path


@dataclass(kw_only=True, eq=False, repr=False)
class AttributionDisplay(Display):
    """Integrated gradients of one step of a forecast (Sundararajan et al. 2017, arXiv:1703.01365,
    eq. 1): how much each value of the look-back adds to it, beside a baseline.

    The forecast is that of ``forecast()``, in the unit of the data (behind the steps of a Pipeline
    and a target transformer), and the attributions are too. They add up to the forecast minus that
    of the baseline. Categories and missing values stay as they are, and get nothing.

    Parts: ``"history"``, ``"heatmap"``.

    Parameters
    ----------
    attributions : DataFrame
        A row for each time step of the look-back and of the horizon, where known covariates alone
        have something; a column for each target, past and known covariate.
    static : Series
        Of the static covariates, and of the calendar's phases as ``"calendar"``.
    forecast, baseline_forecast : float
    gap : float
        What the sum is off by: the error of the integral.
    values : Series
        The target over the look-back.
    time : hashable
        Stamp of the step that is explained.
    title, unit : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import AttributionDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = DeepGRUForecaster(max_epochs=1, hidden_size=4, random_state=0).fit(df)
    >>> display = AttributionDisplay.from_estimator(fc)
    >>> total = display.attributions.to_numpy().sum() + display.static.sum()
    >>> bool(abs(total - (display.forecast - display.baseline_forecast)) < 1e-4)
    True
    """

    attributions: pd.DataFrame
    static: pd.Series
    forecast: float
    baseline_forecast: float
    gap: float
    values: pd.Series
    time: Any
    title: str = ""
    unit: str = ""

    _mosaic = [["history"], ["heatmap"]]
    _size = (9.0, 5.6)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        future: Any = None,
        series: Any = None,
        target: Any = None,
        step: int = 1,
        baseline: str = "window",
    ) -> AttributionDisplay:
        """Explain one step of the next forecast.

        Parameters
        ----------
        estimator : DeepRNNForecaster or SegmentRNNForecaster
            Fitted, alone or in a Pipeline.
        X : optional
            Rows to forecast from instead of the history, as ``forecast(history=)`` takes them.
        future : optional
            Future rows of the known covariates, as ``forecast`` takes them; needed if there are
            any.
        series, target : hashable, optional
            Which one; the first if None.
        step : int, default 1
            Step ahead, up to the forecaster's ``horizon``.
        baseline : {"window", "series"}, default "window"
            What is compared with: every column at its mean over the look-back, or at the mean that
            it was scaled by in fit. Static covariates are at their mean in both.

        Returns
        -------
        AttributionDisplay

        Raises
        ------
        DataError
            If the estimator has no such network, or future covariates are missing.
        """
        owner = cls.__name__
        check_choice(owner, "baseline", baseline, ("window", "series"))
        check_int(owner, "step", step)
        windows, future = read_windows(owner, estimator, X, future)
        if step > windows.horizon:
            raise DataError(f"{owner}: step must be at most {windows.horizon}. Got {step}")
        i, j, panel = windows.number(series), windows.target(target), windows.panel
        origins, batch = windows.ends(np.array([i]), future)
        inputs = batch.inputs
        start = _baseline(inputs, windows.spec, baseline)

        def point(given: Any) -> Tensor:
            numbers = np.full(len(given.targets), i)
            return windows.points(given, numbers)[:, step - 1, j]

        parts, ends, gap = _integrated(point, inputs, start, float(windows.scale[i, j]))
        targets, past, known, ahead, static = (part[0].double().cpu().numpy() for part in parts)
        names = {role: [c.name for c in panel.columns if c.role == role]
                 for role in ("past", "known", "static")}  # fmt: skip
        back = np.concatenate([targets, past, known], 1)
        blank = np.zeros((windows.horizon, back.shape[1] - ahead.shape[1]))
        values = np.concatenate([back, np.concatenate([blank, ahead], 1)])
        origin = int(origins[0])
        rows = np.arange(origin - len(back), origin + windows.horizon)
        inside = rows >= 0
        index = panel.stamps_at(np.full(inside.sum(), i), rows[inside])
        columns = [*windows.targets, *names["past"], *names["known"]]
        table = pd.DataFrame(values[inside], index=index, columns=columns)
        of_static = pd.Series(static[: len(names["static"])], index=names["static"], dtype=float)
        if len(static) > len(of_static):
            of_static["calendar"] = static[len(of_static) :].sum()
        seen = panel.targets[panel.series(i)][max(origin - len(back), 0) : origin, j]
        return cls(
            attributions=table,
            static=of_static,
            forecast=ends[0],
            baseline_forecast=ends[1],
            gap=gap,
            values=pd.Series(seen.astype(float), index=index[: len(seen)]),
            time=index[len(seen) + step - 1],
            title=f"{windows.title(i, j)}: step {step}",
            unit=str(windows.targets[j]),
        )

    def _draw_history(self, ax: Any) -> None:
        x = self._time(ax)
        at = x[self.attributions.index.get_loc(self.time)]
        ax.plot(x[: len(self.values)], self.values, color="0.35", lw=1.2, label="observed")
        ax.plot(at, self.forecast, "o", color="C0", label="forecast")
        ax.plot(at, self.baseline_forecast, "o", color="C0", mfc="none", label="of the baseline")
        tidy(ax, self.title, "", self.unit, legend=True)

    def _draw_heatmap(self, ax: Any) -> None:
        table, whole = self.attributions, self.forecast
        heat_map(ax, self._time(ax), table.to_numpy().T, f"adds to the forecast, {self.unit}")
        labels = [f"{name} ({total:+.3g})" for name, total in table.sum().items()]
        ax.set_yticks(np.arange(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        rest = "".join(f", {name} {value:+.3g}" for name, value in self.static.items())
        title = f"forecast {whole:.4g} = {self.baseline_forecast:.4g} (baseline)"
        title += f" {whole - self.baseline_forecast:+.3g}{rest and ', of which' + rest[1:]}"
        tidy(ax, title, str(table.index.name or ""), "")
        ax.grid(visible=False)

    def _time(self, ax: Any) -> np.ndarray:
        """Positions of all rows; the same limits in both parts."""
        x = time_axis(ax, self.attributions.index)
        margin = 0.015 * (x[-1] - x[0])
        ax.set_xlim(x[0] - margin, x[-1] + margin)
        return x


def _baseline(inputs: Any, spec: Any, kind: str) -> Any:
    """Inputs with every number at its mean; categories and missing values as they are."""

    def at_mean(parts: list[Tensor], levels: Any) -> list[Tensor]:
        both = torch.cat(parts, -2)
        mean = torch.zeros_like(parts[0][..., :1, :])
        if kind == "window":
            mean = torch.nan_to_num(torch.nanmean(both[:, : parts[0].shape[-2]], -2, keepdim=True))
        codes = torch.tensor([n > 0 for n in levels], dtype=torch.bool, device=both.device)
        return [torch.where(torch.isnan(p) | codes, p, mean.expand_as(p)) for p in parts]

    (targets,) = at_mean([inputs.targets], [0] * spec.n_targets)
    (past,) = at_mean([inputs.past], spec.past)
    known, ahead = at_mean([inputs.known, inputs.future_known], spec.known)
    codes = torch.tensor([n > 0 for n in spec.static], dtype=torch.bool, device=targets.device)
    keep = torch.isnan(inputs.static) | codes
    static = torch.where(keep, inputs.static, torch.zeros_like(inputs.static))
    return type(inputs)(targets, past, known, ahead, static)


def _integrated(
    point: Any, inputs: Any, start: Any, unit: float
) -> tuple[list[Tensor], tuple[float, float], float]:
    """Integral of the gradient along the straight path, times the way; the forecasts at both ends,
    last one first; and what the sum is off by.

    Gauss-Legendre on parts of the path. One where the gradients do not add up to the change of the
    forecast, since it has a kink there, is halved.
    """
    ways = [torch.nan_to_num(end - begin) for end, begin in zip(inputs, start)]

    def on_path(at: Any) -> list[Tensor]:
        at = torch.as_tensor(at).to(ways[0])
        return [b + at.view(-1, *[1] * (way.dim() - 1)) * way for b, way in zip(start, ways)]

    @torch.no_grad()
    def value(at: float) -> float:
        return float(point(type(inputs)(*on_path([at]))))

    totals, gap = [torch.zeros_like(way) for way in ways], 0.0
    last, first = value(1.0), value(0.0)
    most = _PRECISE * max(abs(last - first), 1e-2 * unit)
    pieces = [(0.0, first, 1.0, last)]
    while pieces:
        low, at_low, high, at_high = pieces.pop()
        at = low + (high - low) * (_NODES + 1) / 2
        given = [part.requires_grad_(True) for part in on_path(at)]
        grads = torch.autograd.grad(point(type(inputs)(*given)).sum(), given, allow_unused=True)
        weight = torch.as_tensor(_WEIGHTS * (high - low) / 2).to(ways[0])
        means = [None if g is None else torch.tensordot(weight, g.nan_to_num(), 1) for g in grads]
        found = [0.0 * way if m is None else way * m for way, m in zip(ways, means)]
        off = sum(float(part.sum()) for part in found) - (at_high - at_low)
        if abs(off) > most * max(high - low, 1e-2) and high - low > _LEAST:
            middle = (low + high) / 2
            at_middle = value(middle)
            pieces += [(low, at_low, middle, at_middle), (middle, at_middle, high, at_high)]
        else:
            totals, gap = [total + part for total, part in zip(totals, found)], gap + off
    return totals, (last, first), gap
