"""What a forecast is made of, and how far small changes of the history can move it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_int, check_real
from rnnforecast.data.scale import Scale
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, heat_map, tidy, time_axis
from rnnforecast.inspection.networks import Windows
from rnnforecast.training import seeds_of

__all__ = ["AdversarialDisplay", "AttributionDisplay"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)  # a kink of the network costs about 1e-4
_CHUNK = 128  # windows at once
_DRAWS = 20  # random changes
_SHOWN = 10  # series


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


class AdversarialDisplay(Display):
    """How far small changes of the history can move the forecast.

    Every observed target of the look-back may move by ``epsilon`` deviations of its series. The
    forecast, mean over its steps and targets, is pushed up and down along the sign of its gradient,
    in one step (FGSM; Goodfellow et al. 2015, arXiv:1412.6572, section 4) and from there in
    several, each taken back into the budget (PGD; Madry et al. 2018, arXiv:1706.06083, section
    2.1), and compared with random signs of the same size.

    Parameters
    ----------
    shifts : DataFrame
        By series, in deviations of it: how far ``noise`` (mean over draws), ``fgsm`` and ``pgd``
        move the forecast; and ``sensitivity``, that of PGD over ``epsilon``.
    changes : DataFrame
        What PGD adds to the rows of the look-back, in the unit of the data: indexed as
        ``history()``, with columns ("up" or "down", target).
    adversarial_sensitivity_ : float
        Mean of ``sensitivity``. A naive forecast has 1: it moves as far as the history does.
    epsilon : float
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import AdversarialDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = DeepGRUForecaster(max_epochs=1, hidden_size=4, random_state=0).fit(df)
    >>> shifts = AdversarialDisplay.from_estimator(fc, epsilon=0.1).shifts
    >>> bool((shifts["pgd"] >= shifts["fgsm"]).all())
    True
    """

    title: str
    shifts: pd.DataFrame
    changes: pd.DataFrame
    adversarial_sensitivity_: float
    epsilon: float

    _mosaic = [["shifts"]]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        future: Any = None,
        series: Any = None,
        epsilon: float = 0.1,
        n_steps: int = 20,
        random_state: Any = None,
    ) -> AdversarialDisplay:
        """Attack the next forecast of every series.

        Parameters
        ----------
        epsilon : float, default=0.1
            Largest change of a value, in standard deviations of its series.
        n_steps : int, default=20
            Of PGD.
        """
        owner = cls.__name__
        check_real(owner, "epsilon", epsilon, 0, closed="neither")
        check_int(owner, "n_steps", n_steps)
        windows = Windows(owner, estimator, X)
        panel, known = windows.panel, windows.known(estimator, future)
        every = np.arange(panel.n_series) if series is None else np.array([windows.number(series)])
        deviation = Scale.of(panel).target_scale
        generator = torch.Generator().manual_seed(seeds_of(random_state, 1)[0])
        sizes, changes = [], []
        for numbers in np.split(every, range(_CHUNK, len(every), _CHUNK)):
            inputs = windows.take(numbers, panel.lengths[numbers], known[numbers]).inputs
            unit, scale = (
                torch.as_tensor(part[numbers])[:, None].to(inputs.targets)
                for part in (deviation, windows.scale)
            )
            budget = epsilon * unit / scale * ~torch.isnan(inputs.targets)  # in the network's unit
            shift = _shift(windows, inputs, numbers, unit)
            signs = torch.randn((_DRAWS, *budget.shape), generator=generator).sign().to(budget)
            single, several = _attacked(shift, budget, n_steps)
            with torch.no_grad():
                noise, *far = (
                    torch.stack([shift(delta).abs() for delta in deltas])
                    for deltas in (budget * signs, single, several)
                )
            sizes.append(torch.stack([noise.mean(0), *(each.amax(0) for each in far)], 1))
            changes.append(torch.cat([*(several * scale)], -1).double().cpu())
        names = pd.Index([", ".join(map(str, windows.targets))])
        ids = panel.ids[every] if panel.is_panel else names
        values = torch.cat(sizes).double().cpu().numpy()
        shifts = pd.DataFrame(values, ids, ["noise", "fgsm", "pgd"])
        shifts["sensitivity"] = shifts["pgd"] / epsilon
        rows = panel.lengths[every, None] + np.arange(-windows.spec.lookback, 0)
        ways = pd.MultiIndex.from_product([["up", "down"], windows.targets])
        index = panel.index_at(np.repeat(every, rows.shape[1])[rows.ravel() >= 0], rows[rows >= 0])
        return cls(
            shifts=shifts,
            changes=pd.DataFrame(torch.cat(changes).numpy()[rows >= 0], index, ways),
            adversarial_sensitivity_=float(shifts["sensitivity"].mean()),
            epsilon=float(epsilon),
            title=windows.name,
        )

    def _draw_shifts(self, ax: Any) -> None:
        table = self.shifts.sort_values("pgd", ascending=False).iloc[:_SHOWN, :3]
        table.columns = ["random noise", "FGSM", "PGD"]
        table.plot.barh(ax=ax, color=["0.7", "C0", "C3"], width=0.78)
        ax.axvline(self.epsilon, color="k", lw=0.9, ls=":", label="size of the change")
        ax.set_ylim(len(table) - 0.5, -0.5)
        title = f"{self.title}: sensitivity {self.adversarial_sensitivity_:.3g}"
        x = "shift of the mean forecast, in standard deviations of the series"
        most = "" if len(table) == len(self.shifts) else f"first of {len(self.shifts)} series"
        tidy(ax, title, x, most, legend=True)
        ax.grid(axis="y", visible=False)


def _shift(windows: Windows, inputs: Any, numbers: np.ndarray, unit: Tensor) -> Any:
    """How far a change of the targets moves the mean forecast of each series, in deviations."""

    def points(delta: Any) -> Tensor:
        return windows.points(inputs._replace(targets=inputs.targets + delta), numbers)

    with torch.no_grad():
        plain = points(0.0)
    return lambda delta: ((points(delta) - plain) / unit).mean((1, 2))


def _attacked(shift: Any, budget: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Changes that push up and down: in one step, and the best on the way of several from there,
    each (2, rows, ...).
    """

    def slope(delta: Tensor) -> tuple[Tensor, Tensor]:
        delta = delta.detach().requires_grad_(True)
        far = shift(delta)
        (grad,) = torch.autograd.grad(far.sum(), delta)
        return torch.nan_to_num(grad).sign(), far.detach()

    up = budget * slope(torch.zeros_like(budget))[0]
    single = torch.stack([up, -up])
    best = single.clone()
    for k, sign in enumerate((1, -1)):
        delta, far = single[k], budget.new_full((len(budget),), -torch.inf)
        for _ in range(n_steps + 1):
            direction, now = slope(delta)
            better = sign * now > far
            best[k] = torch.where(better[:, None, None], delta, best[k])
            far = torch.where(better, sign * now, far)
            step = 2.5 / n_steps * sign * budget * direction
            delta = torch.clamp(delta + step, -budget, budget)
    return single, best
