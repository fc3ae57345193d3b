"""Forecasts: a centre, quantiles and samples of values to come."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast.exceptions import DataError

__all__ = [
    "AGGREGATES",
    "Forecast",
    "NormalForecast",
    "PointForecast",
    "QuantileForecast",
    "TransformedForecast",
]


def _middle(x: Tensor) -> Tensor:
    """Median over the first dimension: the mean of both middle values of an even number."""
    ordered, n = x.sort(0).values, len(x)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


# name -> average of the members' numbers over the first dimension
AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "median": _middle,
    "mean": lambda x: x.mean(0),
}


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
        table = self.quantile(np.linspace(0.01, 0.99, 99).tolist())
        at = torch.rand((n, *table.shape[:-1]), generator=generator, dtype=table.dtype) * 98
        low = at.long().clamp(max=97)
        table = table.expand(n, *table.shape).gather(-1, torch.stack([low, low + 1], -1))
        return torch.lerp(table[..., 0], table[..., 1], at - low)

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

    def _each(self, of: Callable[[list[Tensor]], Tensor], others: Sequence[Forecast] = ()) -> Any:
        """The forecast whose every tensor is made ``of`` this one's and those of its kind."""
        new = copy.copy(self)
        for name, value in vars(self).items():
            rest = [getattr(other, name) for other in others]
            if isinstance(value, Forecast):
                vars(new)[name] = value._each(of, rest)
            elif isinstance(value, Tensor):
                vars(new)[name] = of([value, *rest])
        return new

    def __getitem__(self, index: Any) -> Forecast:
        """The forecast of some rows and steps."""
        return self._each(lambda tensors: tensors[0][index])

    @staticmethod
    def joined(parts: Sequence[Any], dim: int = 0) -> Any:
        """Forecasts of one kind after one another along a dimension."""
        first, *rest = parts
        return first._each(lambda tensors: torch.cat(tensors, dim), rest) if rest else first

    @staticmethod
    def averaged(parts: Sequence[Any], aggregate: str) -> Any:
        """Forecasts of one kind averaged number by number, see ``AGGREGATES``.

        Quantiles are averaged level by level (Lichtendahl et al. 2013, Management Science 59(7),
        eq. 2): those of every member are in order, and so is their mean, and their median.

        Examples
        --------
        >>> members = [PointForecast(torch.tensor([[[v]]])) for v in (1.0, 2.0, 9.0)]
        >>> Forecast.averaged(members, "median").point.item()
        2.0
        """
        (first, *rest), average = parts, AGGREGATES[aggregate]
        return first._each(lambda tensors: average(torch.stack(tensors)), rest) if rest else first


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
        weights = np.stack([np.interp(levels, known, one) for one in np.eye(len(known))])
        return self.values @ torch.as_tensor(weights).to(self.values)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        raise DataError(
            "samples need a whole distribution, and quantiles= trains some levels of it: use "
            "quantiles=None"
        )

    def spread(self) -> Tensor:
        return self.values[..., -1] - self.values[..., 0]

    def stretched(self, factor: Tensor) -> Forecast:
        middle = self.median[..., None]
        return QuantileForecast(middle + (self.values - middle) * factor[..., None], self.levels)


class TransformedForecast(Forecast):
    """A forecast on another scale, and perhaps seen through an increasing function: the quantiles
    move with it.

    Parameters
    ----------
    inner : Forecast
    location, scale : Tensor, shape (..., targets)
        ``function(location + scale * value)`` is forecast.
    function : callable, optional
        Increasing; takes and gives tensors of shape ``(..., targets)``.
    """

    def __init__(
        self, inner: Forecast, location: Tensor, scale: Tensor, function: Callable | None = None
    ):
        self.inner = inner
        self.location = location
        self.scale = scale
        self.function = function

    def _outer(self, values: Tensor) -> Tensor:
        moved = self.location + self.scale * values
        return moved if self.function is None else self.function(moved)

    @property
    def median(self) -> Tensor:
        return self._outer(self.inner.median)

    @property
    def mean(self) -> Tensor:
        try:
            return self.quantile((np.arange(1, 100) / 100).tolist()).mean(-1)
        except DataError:  # no spread is known
            return self.median

    def quantile(self, levels: Sequence[float]) -> Tensor:
        inner = self.inner.quantile(levels)
        return torch.stack([self._outer(part) for part in inner.unbind(-1)], -1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self._outer(self.inner.sample(n, generator))
