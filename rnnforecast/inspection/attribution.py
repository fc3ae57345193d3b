"""What a forecast is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, heat_map, tidy, time_axis
from rnnforecast.inspection.networks import Windows

__all__ = ["AttributionDisplay"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)  # a kink of the network costs about 1e-4


class AttributionDisplay(Display):
    """Integrated gradients of one step of a forecast (Sundararajan et al. 2017, arXiv:1703.01365,
    eq. 1): how much each value of the look-back adds to it, beside a baseline.

    The forecast is that of ``forecast()``, in the unit of the data (behind the steps of a Pipeline
    and a target transformer), and the attributions are too. They add up to the forecast minus that
    of the baseline. The baseline has every column at its mean over the look-back, and static
    covariates at their mean over series. Categories and missing values stay as they are, and get
    nothing.

    Parameters
    ----------
    attributions : DataFrame
        A row for each time step of the look-back and of the horizon, where known covariates alone
        have something; a column for each target, past and known covariate.
    static : Series
        Of the static covariates, and of the calendar's phases as ``"calendar"``.
    forecast, baseline_forecast : float
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
    >>> bool(abs(total - (display.forecast - display.baseline_forecast)) < 1e-3)
    True
    """

    title: str
    attributions: pd.DataFrame
    static: pd.Series
    forecast: float
    baseline_forecast: float
    unit: str

    _mosaic = [["heatmap"]]

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
    ) -> AttributionDisplay:
        """Explain one step of the next forecast.

        Parameters
        ----------
        step : int, default=1
            Step ahead, up to the forecaster's ``horizon``.
        """
        owner = cls.__name__
        check_int(owner, "step", step)
        windows = Windows(owner, estimator, X)
        if step > windows.horizon:
            raise DataError(f"{owner}: step must be at most {windows.horizon}. Got {step}")
        i, j, panel = windows.number(series), windows.target(target), windows.panel
        known = windows.known(estimator, future)[[i]]
        inputs = windows.take(np.array([i]), panel.lengths[[i]], known).inputs

        def point(given: Any) -> Tensor:
            numbers = np.full(len(given.targets), i)
            return windows.points(given, numbers)[:, step - 1, j]

        start = _baseline(inputs, windows.spec)
        parts = [part.double().cpu().numpy() for part in _integrated(point, inputs, start)]
        with torch.no_grad():
            forecast, from_baseline = (float(point(given)) for given in (inputs, start))
        targets, past, own, ahead, static = parts
        names = {role: [c.name for c in panel.columns if c.role == role]
                 for role in ("past", "known", "static")}  # fmt: skip
        values = np.pad(np.concatenate([targets, past, own], 1), ((0, windows.horizon), (0, 0)))
        n = len(targets)
        values[n:, values.shape[1] - ahead.shape[1] :] = ahead
        index = windows.stamps(i, np.arange(-n, windows.horizon))
        columns = [*windows.targets, *names["past"], *names["known"]]
        n_static = len(names["static"])
        of_static = pd.Series(static[:n_static], index=names["static"], dtype=float)
        if len(static) > n_static:
            of_static["calendar"] = static[n_static:].sum()
        return cls(
            attributions=pd.DataFrame(values[-len(index) :], index=index, columns=columns),
            static=of_static,
            forecast=forecast,
            baseline_forecast=from_baseline,
            title=f"{windows.about(i, j)}: step {step}",
            unit=str(windows.targets[j]),
        )

    def _draw_heatmap(self, ax: Any) -> None:
        table, whole = self.attributions, self.forecast
        x, label = time_axis(ax, table.index), f"adds to the forecast, {self.unit}"
        heat_map(ax, x, table.to_numpy().T, label)
        labels = [f"{name} ({total:+.3g})" for name, total in table.sum().items()]
        ax.set_yticks(np.arange(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        rest = "".join(f", {name} {value:+.3g}" for name, value in self.static.items())
        title = f"{self.title}\nforecast {whole:.4g} = {self.baseline_forecast:.4g} (baseline)"
        title += f" {whole - self.baseline_forecast:+.3g}{rest and ', of which' + rest[1:]}"
        tidy(ax, title, str(table.index.name or ""), "")
        ax.grid(visible=False)


def _baseline(inputs: Any, spec: Any) -> Any:
    """Inputs with every number at its mean; categories and missing values as they are."""

    def at_mean(part: Tensor, levels: Any, seen: Tensor | None) -> Tensor:
        mean = torch.zeros_like(part)  # on the scale of fit
        if seen is not None:
            mean = mean + torch.nan_to_num(torch.nanmean(seen, -2, keepdim=True))
        codes = torch.tensor([n > 0 for n in levels], dtype=torch.bool, device=part.device)
        return torch.where(torch.isnan(part) | codes, part, mean)

    return type(inputs)(
        targets=at_mean(inputs.targets, [0] * spec.n_targets, inputs.targets),
        past=at_mean(inputs.past, spec.past, inputs.past),
        known=at_mean(inputs.known, spec.known, inputs.known),
        future_known=at_mean(inputs.future_known, spec.known, inputs.known),
        static=at_mean(inputs.static, spec.static, None),
    )


def _integrated(point: Any, inputs: Any, start: Any) -> list[Tensor]:
    """Integral of the gradient along the straight path, times the way, for each of the inputs."""
    ways = [torch.nan_to_num(end - begin) for end, begin in zip(inputs, start)]
    at = torch.as_tensor((_NODES + 1) / 2).to(ways[0])
    weight = torch.as_tensor(_WEIGHTS / 2).to(ways[0])
    given = [
        (begin + at.view(-1, *[1] * (way.dim() - 1)) * way).requires_grad_(True)
        for begin, way in zip(start, ways)
    ]
    total = point(type(inputs)(*given)).sum()
    grads = torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True)
    return [way[0] * torch.tensordot(weight, g.nan_to_num(), 1) for way, g in zip(ways, grads)]
