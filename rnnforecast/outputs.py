"""What a network's numbers mean: an ``Output`` turns them into a ``Forecast`` and trains on it.

An output says how many numbers the network gives for each step and target, what they stand for once
location and scale are known, and how far that is from the truth. It alone knows how location and
scale act on its numbers.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rnnforecast.exceptions import DataError

__all__ = [
    "AGGREGATES",
    "LOSSES",
    "ConformalErrors",
    "ConformalForecast",
    "Forecast",
    "NormalForecast",
    "Output",
    "PointForecast",
    "PointOutput",
    "QuantileForecast",
    "QuantileOutput",
    "TransformedForecast",
    "conformal_quantile",
    "masked_mean",
]


def _huber(error: Tensor) -> Tensor:
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none")


# name -> loss of each error (forecast minus truth)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mae": torch.abs,
    "mse": torch.square,
    "huber": _huber,
}


def _middle(x: Tensor) -> Tensor:
    """Median over the first dimension: the mean of both middle values of an even number."""
    ordered, n = x.sort(0).values, len(x)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


# name -> average of the members' numbers over the first dimension
AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "median": _middle,
    "mean": lambda x: x.mean(0),
}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``; zero if nothing is observed."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / mask.sum().clamp(min=1)


# -- forecasts -------------------------------------------------------------------------------------


class Forecast(ABC):
    """What is said of some values to come: a centre, quantiles, samples.

    Every tensor among the attributes has the shape of the forecast, ``(..., targets)`` and mostly
    ``(rows, steps, targets)``, with or without further dimensions behind it. So all of them can be
    indexed, joined and averaged alike, and a subclass says only what its numbers mean.
    """

    @property
    @abstractmethod
    def median(self) -> Tensor:
        """Shape ``(..., targets)``."""

    @property
    def mean(self) -> Tensor:
        """Expected value; the median unless a subclass knows better."""
        return self.median

    @property
    def point(self) -> Tensor:
        """What ``predict`` and ``forecast`` give: the median."""
        return self.median

    @abstractmethod
    def quantile(self, levels: Sequence[float]) -> Tensor:
        """Quantiles at ``levels`` in (0, 1), in increasing order: ``(..., targets, n_levels)``."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of every value by itself, ``(n, ..., targets)``, by inversion of 99 quantiles."""
        levels = np.linspace(0.01, 0.99, 99)
        table = self.quantile(levels.tolist())
        at = torch.rand((n, *table.shape[:-1]), generator=generator, dtype=table.dtype) * 98
        low = at.floor().long().clamp(max=97)
        table = table.expand(n, *table.shape)
        left = table.gather(-1, low[..., None])[..., 0]
        right = table.gather(-1, low[..., None] + 1)[..., 0]
        return torch.lerp(left, right, at - low)

    def spread(self) -> Tensor:
        """A width of the distribution, ``(..., targets)``: by which it grows beyond the horizon."""
        outer = self.quantile((0.1, 0.9))
        return outer[..., 1] - outer[..., 0]

    def stretched(self, factor: Tensor) -> Forecast:
        """The same centre with every deviation from it times ``factor``, ``(..., targets)``."""
        return self

    def widened(self, horizon: int) -> Forecast:
        """Spreads beyond the horizon, grown from those inside it; for ``(rows, steps, targets)``.

        Parameters
        ----------
        horizon : int
            Steps that a network forecasts at once. The spread of a later step is that of step
            ``horizon`` times ``(step / horizon) ** growth``; the growth is that from step 1 to step
            ``horizon``, between 0 and 0.5 (a random walk's), and 0.5 where the horizon is 1.
        """
        n = self.median.shape[1]
        if n <= horizon:
            return self
        width = self.spread().clamp(min=1e-12)
        if horizon == 1:
            growth = torch.full_like(width[:, :1], 0.5)
        else:
            ratio = width[:, horizon - 1 : horizon] / width[:, :1]
            growth = (ratio.log() / math.log(horizon)).clamp(0.0, 0.5)
        steps = torch.arange(1, n + 1, dtype=width.dtype)[None, :, None]
        wanted = width[:, horizon - 1 : horizon] * (steps / horizon) ** growth
        return self.stretched(torch.where(steps > horizon, wanted / width, 1.0))

    # -- all numbers alike ------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Any]:
        parts = {name: v for name, v in vars(self).items() if isinstance(v, (Tensor, Forecast))}
        return parts

    def _with(self, **parts: Any) -> Forecast:
        new = copy.copy(self)
        vars(new).update(parts)
        return new

    def __getitem__(self, index: Any) -> Forecast:
        """The forecast of some rows and steps."""
        return self._with(**{name: value[index] for name, value in self._tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[Any], dim: int = 0) -> Any:
        """Forecasts of one kind after one another along a dimension."""
        return cls._combined(parts, lambda tensors: torch.cat(tensors, dim))

    @classmethod
    def averaged(cls, parts: Sequence[Any], aggregate: str) -> Any:
        """Forecasts of one kind averaged number by number, see ``AGGREGATES``.

        Quantiles are averaged level by level (Lichtendahl et al. 2013, Management Science 59(7),
        eq. 2): those of every member are in order, and so is their mean, and their median.

        Examples
        --------
        >>> members = [PointForecast(torch.tensor([[[v]]])) for v in (1.0, 2.0, 9.0)]
        >>> Forecast.averaged(members, "median").point.item()
        2.0
        """
        average = AGGREGATES[aggregate]
        return cls._combined(parts, lambda tensors: average(torch.stack(tensors)))

    @classmethod
    def _combined(cls, parts: Sequence[Any], combine: Callable[[list[Tensor]], Tensor]) -> Any:
        first = parts[0]
        if len(parts) == 1:
            return first
        new = {}
        for name, value in first._tensors().items():
            every = [getattr(part, name) for part in parts]
            nested = isinstance(value, Forecast)
            new[name] = cls._combined(every, combine) if nested else combine(every)
        return first._with(**new)


class PointForecast(Forecast):
    """One number: a centre without a spread.

    Parameters
    ----------
    value : Tensor, shape (..., targets)
    """

    def __init__(self, value: Tensor):
        self.value = value

    @property
    def median(self) -> Tensor:
        return self.value

    def quantile(self, levels: Sequence[float]) -> Tensor:
        if any(level != 0.5 for level in levels):
            raise DataError("a point forecast alone has no quantiles but the median")
        return self.value[..., None].expand(*self.value.shape, len(levels))

    def widened(self, horizon: int) -> Forecast:
        return self


class NormalForecast(Forecast):
    """Normal distributions.

    Parameters
    ----------
    centre, deviation : Tensor, shape (..., targets)
        Mean and standard deviation.

    Examples
    --------
    >>> forecast = NormalForecast(torch.tensor([[[10.0]]]), torch.tensor([[[2.0]]]))
    >>> forecast.quantile((0.5, 0.975))[0, 0, 0].tolist()
    [10.0, 13.91992...]
    """

    def __init__(self, centre: Tensor, deviation: Tensor):
        self.centre = centre
        self.deviation = deviation

    @property
    def median(self) -> Tensor:
        return self.centre

    def quantile(self, levels: Sequence[float]) -> Tensor:
        z = torch.special.ndtri(torch.as_tensor(levels, dtype=torch.float64)).to(self.centre)
        return self.centre[..., None] + self.deviation[..., None] * z

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn((n, *self.centre.shape), generator=generator, dtype=self.centre.dtype)
        return self.centre + self.deviation * noise

    def spread(self) -> Tensor:
        return self.deviation

    def stretched(self, factor: Tensor) -> Forecast:
        return NormalForecast(self.centre, self.deviation * factor)


class QuantileForecast(Forecast):
    """Quantiles at some levels, linear between neighbours.

    Parameters
    ----------
    values : Tensor, shape (..., targets, n_levels)
        Not decreasing along the last dimension.
    levels : tuple of float
        Sorted levels, with 0.5 among them.
    """

    def __init__(self, values: Tensor, levels: tuple[float, ...]):
        self.values = values
        self.levels = levels

    @property
    def median(self) -> Tensor:
        return self.values[..., self.levels.index(0.5)]

    def quantile(self, levels: Sequence[float]) -> Tensor:
        known = np.asarray(self.levels)
        if levels[0] < known[0] - 1e-9 or levels[-1] > known[-1] + 1e-9:
            asked = [round(float(level), 10) for level in levels]
            raise DataError(
                f"quantiles {asked} reach beyond the trained ones, {known.tolist()}: fit with "
                f"quantiles= that span them, or with quantiles=None for conformal intervals"
            )
        right = np.clip(np.searchsorted(known, levels), 1, len(known) - 1)
        left = right - 1
        share = np.clip((np.asarray(levels) - known[left]) / (known[right] - known[left]), 0, 1)
        weight = torch.as_tensor(share).to(self.values)
        return self.values[..., left] * (1 - weight) + self.values[..., right] * weight

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        raise DataError(
            "samples need a whole distribution, and quantiles= trains some levels of it: use "
            "quantiles=None"
        )

    def spread(self) -> Tensor:
        return self.values[..., -1] - self.values[..., 0]

    def stretched(self, factor: Tensor) -> Forecast:
        middle = self.median[..., None]
        return self._with(values=middle + (self.values - middle) * factor[..., None])


class TransformedForecast(Forecast):
    """A forecast seen through an increasing function: the quantiles move with it.

    Parameters
    ----------
    inner : Forecast
    function : callable
        Increasing; takes tensors of shape ``(..., targets)`` and gives the same shape.
    location, scale : Tensor, shape (..., targets)
        ``function(location + scale * value)`` is forecast.
    """

    def __init__(self, inner: Forecast, function: Callable, location: Tensor, scale: Tensor):
        self.inner = inner
        self.function = function
        self.location = location
        self.scale = scale

    def _outer(self, values: Tensor) -> Tensor:
        return self.function(self.location + self.scale * values)

    @property
    def median(self) -> Tensor:
        return self._outer(self.inner.median)

    @property
    def mean(self) -> Tensor:
        levels = (np.arange(99) + 1) / 100
        try:
            return self.quantile(levels.tolist()).mean(-1)
        except DataError:  # no spread is known
            return self.median

    def quantile(self, levels: Sequence[float]) -> Tensor:
        inner = self.inner.quantile(levels)
        return torch.stack([self._outer(part) for part in inner.unbind(-1)], -1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self._outer(self.inner.sample(n, generator))


# -- outputs ---------------------------------------------------------------------------------------


class Output(ABC):
    """Turns ``n_params`` numbers a step and target into a forecast, and says how good it is."""

    n_params: int

    @abstractmethod
    def forecast(self, raw: Tensor, location: Tensor, scale: Tensor) -> Forecast:
        """What the numbers say.

        Parameters
        ----------
        raw : Tensor, shape (rows, steps, targets, n_params)
        location, scale : Tensor, shape (rows, steps or 1, targets)
            The forecast is ``location`` plus ``scale`` times what ``raw`` says.
        """

    @abstractmethod
    def loss(self, forecast: Any, truth: Tensor) -> Tensor:
        """Scalar loss against ``truth: (rows, steps, targets)``, NaN left out."""

    def calibrated(self, forecast: Forecast, errors: ConformalErrors, scale: Tensor) -> Forecast:
        """The forecast with the spread of past errors, for an output that has none of its own.

        Parameters
        ----------
        forecast : Forecast, shape (rows, steps, targets)
        errors : ConformalErrors
        scale : Tensor, shape (rows, 1, targets)
            Of each row's series, in which the errors are measured.
        """
        return forecast


class PointOutput(Output):
    """One number: the point forecast; its intervals are conformal.

    Parameters
    ----------
    loss : str
        Name in ``LOSSES``.
    """

    n_params = 1

    def __init__(self, loss: str = "mae"):
        self.name = loss  # a name, looked up when used: a saved model holds no code

    def forecast(self, raw: Tensor, location: Tensor, scale: Tensor) -> PointForecast:
        return PointForecast(raw[..., 0] * scale + location)

    def loss(self, forecast: PointForecast, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = forecast.value - torch.where(mask, truth, torch.zeros_like(truth))
        return masked_mean(LOSSES[self.name](error), mask)

    def calibrated(self, forecast: Forecast, errors: ConformalErrors, scale: Tensor) -> Forecast:
        return ConformalForecast(forecast, errors, scale)


class QuantileOutput(Output):
    """Several quantiles that cannot cross.

    The median is free; every quantile above (below) it adds (subtracts) a positive step, softplus
    of a raw number, to its neighbour. Trained on the pinball loss (Koenker & Bassett 1978, eq.
    2.1), mean over levels.

    Parameters
    ----------
    levels : sequence of float
        Levels in (0, 1); the median is added.
    """

    def __init__(self, levels: Sequence[float]):
        self.levels = tuple(sorted({0.5, *map(float, levels)}))
        self.n_params = len(self.levels)

    def forecast(self, raw: Tensor, location: Tensor, scale: Tensor) -> QuantileForecast:
        middle = self.levels.index(0.5)
        median = raw[..., middle : middle + 1]
        below = -functional.softplus(raw[..., :middle]).flip(-1).cumsum(-1).flip(-1)
        above = functional.softplus(raw[..., middle + 1 :]).cumsum(-1)
        values = torch.cat([median + below, median, median + above], dim=-1)
        return QuantileForecast(values * scale[..., None] + location[..., None], self.levels)

    def loss(self, forecast: QuantileForecast, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = torch.where(mask, truth, torch.zeros_like(truth))[..., None] - forecast.values
        levels = forecast.values.new_tensor(self.levels)
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        return masked_mean(pinball, mask)


# -- conformal -------------------------------------------------------------------------------------

_ENOUGH = 20  # errors a step needs before it is calibrated on its own


def conformal_quantile(errors: np.ndarray, level: float) -> float:
    """Corrected quantile of calibration errors.

    Parameters
    ----------
    errors : ndarray, shape (n,)
        Signed errors, truth minus forecast, without NaN.
    level : float
        Quantile level in (0, 1).

    Returns
    -------
    float
        Upper tails: the ceil((n + 1) level)-th smallest error; lower tails its mirror image. Where
        that rank is outside 1..n (too few errors), the largest or smallest error. The median is the
        plain one.

    Examples
    --------
    >>> conformal_quantile(np.arange(1.0, 10.0), 0.9)
    9.0
    """
    errors = np.sort(errors)
    n = len(errors)
    if n == 0:
        return 0.0
    if level == 0.5:
        return float(np.median(errors))
    # ranks are rounded to 9 digits, so that 0.9 * 10 is 9 and not 9.000000000000002
    if level > 0.5:
        rank = int(np.ceil(round((n + 1) * level, 9)))
    else:
        rank = n + 1 - int(np.ceil(round((n + 1) * (1.0 - level), 9)))
    return float(errors[min(max(rank, 1), n) - 1])


class ConformalErrors:
    """Calibration errors by step and target, in units of each series' scale.

    A forecaster that trained no spread takes its intervals from its own errors at past origins: the
    q-quantile of the forecast is the point plus the q-quantile of the signed errors, with the
    finite-sample correction of split conformal prediction (Lei et al. 2018, J. Am. Stat. Assoc.
    113(523), section 2.2; for signed errors the two tails are corrected apart, as in Romano et al.
    2019, NeurIPS 32, theorem 2).

    Parameters
    ----------
    errors : ndarray, shape (n_errors, n_steps, n_targets)
        Truth minus forecast over the scale; NaN where the truth was not observed.
    """

    def __init__(self, errors: np.ndarray):
        self.errors = errors

    def offsets(self, n_steps: int, levels: Sequence[float]) -> np.ndarray:
        """What to add to the point forecast, in units of the scale.

        A step with fewer than 20 errors borrows those of all steps. Steps beyond the calibrated
        ones widen by (step / last) ** growth, see :meth:`growth`.

        Returns
        -------
        ndarray, shape (n_steps, n_targets, n_levels)
        """
        n_calibrated, n_targets = self.errors.shape[1:]
        table = np.zeros((n_calibrated, n_targets, len(levels)))
        for target in range(n_targets):
            pooled = self.errors[:, :, target]
            for step in range(n_calibrated):
                errors = pooled[:, step]
                errors = errors[~np.isnan(errors)]
                if len(errors) < _ENOUGH:
                    errors = pooled[~np.isnan(pooled)]
                table[step, target] = [conformal_quantile(errors, level) for level in levels]
        steps = np.arange(1, n_steps + 1)
        grow = np.maximum(steps / n_calibrated, 1.0)[:, None] ** self.growth()
        return table[np.minimum(steps, n_calibrated) - 1] * grow[:, :, None]

    def growth(self) -> np.ndarray:
        """Exponent by which errors grow with the step, from 0 (none) to 0.5 (a random walk).

        Returns
        -------
        ndarray, shape (n_targets,)
            Slope of the log of the mean absolute error on the log of the step; 0.5 where only one
            step was calibrated and nothing is known.
        """
        n_steps, n_targets = self.errors.shape[1:]
        if n_steps == 1:
            return np.full(n_targets, 0.5)
        seen = ~np.isnan(self.errors)
        size = np.sum(np.abs(self.errors), axis=0, where=seen) / np.maximum(seen.sum(0), 1)
        logs = np.log(np.maximum(size, 1e-12))
        x = np.log(np.arange(1, n_steps + 1))
        x = x - x.mean()
        slope = (x[:, None] * (logs - logs.mean(0))).sum(0) / (x**2).sum()
        return np.clip(slope, 0.0, 0.5)


class ConformalForecast(Forecast):
    """Point forecasts with the quantiles of calibration errors around them.

    Parameters
    ----------
    centre : Forecast, shape (rows, steps, targets)
    errors : ConformalErrors
    scale : Tensor, shape (rows, 1, targets)
    """

    def __init__(self, centre: Forecast, errors: ConformalErrors, scale: Tensor):
        self.centre = centre
        self.errors = errors
        point = centre.point
        self.scale = scale.to(point).expand(point.shape)
        self.step = torch.arange(1, point.shape[1] + 1)[:, None].expand(point.shape)

    @property
    def median(self) -> Tensor:
        return self.centre.median

    @property
    def mean(self) -> Tensor:
        return self.centre.mean

    def quantile(self, levels: Sequence[float]) -> Tensor:
        point = self.centre.point
        steps = self.step.numpy()
        table = self.errors.offsets(int(steps.max(initial=1)), levels)
        offsets = table[steps - 1, np.arange(point.shape[-1])]
        added = torch.as_tensor(offsets).to(point) * self.scale[..., None]
        return point[..., None] + added

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Paths: each row takes the errors of one past origin for all of its steps and targets."""
        found = self.errors.errors
        whole = found[~np.isnan(found).any((1, 2))]
        if not len(whole) or self.centre.point.ndim != 3:
            return super().sample(n, generator)
        point, last = self.centre.point, whole.shape[1]
        rows = torch.randint(len(whole), (n, len(point)), generator=generator).numpy()
        steps = self.step[0, :, 0].numpy()
        grow = np.maximum(steps / last, 1.0)[:, None] ** self.errors.growth()
        drawn = whole[rows][:, :, np.minimum(steps, last) - 1] * grow
        return point + torch.as_tensor(drawn).to(point) * self.scale
