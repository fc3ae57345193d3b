"""Forecasts: a centre, quantiles and samples of values to come."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from rnnforecast.exceptions import DataError

__all__ = [
    "AGGREGATES",
    "Forecast",
    "NormalForecast",
    "PointForecast",
    "QuantileForecast",
    "SampleForecast",
    "StudentTForecast",
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

    def value_at(self, levels: Tensor) -> Tensor:
        """The quantile at a level of its own for each value, by interpolation of 99 quantiles.

        Parameters
        ----------
        levels : Tensor
            In (0, 1), of a shape that broadcasts with ``(..., targets)``; the result has both.
        """
        table = self.quantile(np.linspace(0.01, 0.99, 99).tolist())
        shape = torch.broadcast_shapes(levels.shape, table.shape[:-1])
        at = ((levels.expand(shape) - 0.01) * 100).clamp(0, 98)
        low = at.long().clamp(max=97)
        table = table.expand(*shape, 99).gather(-1, torch.stack([low, low + 1], -1))
        return torch.lerp(table[..., 0], table[..., 1], at - low)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of every value by itself, ``(n, ..., targets)``, by inversion."""
        like = self.median
        levels = torch.rand((n, *like.shape), generator=generator, dtype=like.dtype)
        return self.value_at(levels)

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
    joint : callable, optional
        Asked for samples alone: how much each of some independent shocks weighs in a step, in any
        unit, ``(rows, steps, targets, shocks)``. None: every value is drawn by itself.

    Examples
    --------
    >>> forecast = NormalForecast(torch.tensor([[[10.0]]]), torch.tensor([[[2.0]]]))
    >>> forecast.quantile((0.5, 0.975))[0, 0, 0].tolist()
    [10.0, 13.91992...]
    """

    def __init__(self, centre: Tensor, deviation: Tensor, joint: Callable | None = None):
        self.centre = centre
        self.deviation = deviation
        self.joint = joint

    def _each(self, of: Callable[[list[Tensor]], Tensor], others: Sequence[Any] = ()) -> Any:
        new, joints = super()._each(of, others), [one.joint for one in (self, *others)]
        if self.joint is not None:
            new.joint = lambda: of([joint() for joint in joints])
        return new

    @property
    def median(self) -> Tensor:
        return self.centre

    def quantile(self, levels: Sequence[float]) -> Tensor:
        z = torch.special.ndtri(torch.as_tensor(levels, dtype=torch.float64)).to(self.centre)
        return self.centre[..., None] + self.deviation[..., None] * z

    def value_at(self, levels: Tensor) -> Tensor:
        return self.centre + self.deviation * torch.special.ndtri(levels)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        weights, shape = None, tuple(self.centre.shape)
        if self.joint is not None and len(shape) == 3:
            weights = torch.nn.functional.normalize(self.joint(), dim=-1, eps=1e-300)
            shape = weights[:, 0].shape
        noise = torch.randn((n, *shape), generator=generator, dtype=self.centre.dtype)
        if weights is not None:
            noise = torch.einsum("rstk,nrtk->nrst", weights, noise)
        return self.centre + self.deviation * noise

    def spread(self) -> Tensor:
        return self.deviation

    def stretched(self, factor: Tensor) -> Forecast:
        return NormalForecast(self.centre, self.deviation * factor, self.joint)


class StudentTForecast(Forecast):
    """Student's t distributions.

    Parameters
    ----------
    centre, scale, df : Tensor, shape (..., targets)
        Median, scale and degrees of freedom; the standard deviation is
        ``scale * sqrt(df / (df - 2))``.

    Examples
    --------
    >>> ten, two, four = (torch.tensor([[[v]]]) for v in (10.0, 2.0, 4.0))
    >>> StudentTForecast(ten, two, four).quantile((0.5, 0.975))[0, 0, 0].tolist()
    [10.0, 15.5528...]
    """

    def __init__(self, centre: Tensor, scale: Tensor, df: Tensor):
        self.centre = centre
        self.scale = scale
        self.df = df

    @property
    def median(self) -> Tensor:
        return self.centre

    def quantile(self, levels: Sequence[float]) -> Tensor:
        parts = [self.value_at(self.centre.new_full((), level)) for level in levels]
        return torch.stack(parts, -1)

    def value_at(self, levels: Tensor) -> Tensor:
        t = stdtrit(self.df.detach().cpu().double().numpy(), levels.cpu().double().numpy())
        return self.centre + self.scale * torch.as_tensor(t).to(self.centre)

    def stretched(self, factor: Tensor) -> Forecast:
        return StudentTForecast(self.centre, self.scale * factor, self.df)


class SampleForecast(Forecast):
    """Sampled paths: what one path has at different steps belongs together.

    Members are averaged path by path, so their paths must be driven by the same noise.

    Parameters
    ----------
    paths : Tensor, shape (..., targets, n_paths)

    Examples
    --------
    >>> forecast = SampleForecast(torch.arange(10.0).reshape(1, 1, 10))
    >>> forecast.median.item(), forecast.quantile((0.1, 0.9))[0, 0].tolist()
    (4.5, [0.5, 8.5])
    """

    def __init__(self, paths: Tensor):
        self.paths = paths

    @property
    def median(self) -> Tensor:
        return self.quantile((0.5,))[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.paths.mean(-1)

    def quantile(self, levels: Sequence[float]) -> Tensor:
        """By interpolation: the k-th smallest of n stands for the level (k - 1/2) / n."""
        ordered, n = self.paths.sort(-1).values, self.paths.shape[-1]
        at = (torch.as_tensor(levels, dtype=torch.float64) * n - 0.5).clamp(0, n - 1)
        low, high = (ordered[..., part.long()] for part in (at.floor(), at.ceil()))
        return torch.lerp(low, high, at.frac().to(ordered))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Whole paths, ``(n, ..., targets)``: each of them once before any comes again; which is
        which differs between rows.
        """
        rows, n_paths = len(self.paths), self.paths.shape[-1]
        rounds = torch.rand((-(-n // n_paths), rows, n_paths), generator=generator)
        order = rounds.argsort(-1).transpose(0, 1).flatten(1)[:, :n]  # (rows, n)
        order = order.view(rows, *[1] * (self.paths.ndim - 2), n)
        return self.paths.gather(-1, order.expand(*self.paths.shape[:-1], n)).movedim(-1, 0)

    def widened(self, horizon: int) -> Forecast:
        return self  # paths go on with their own spread


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
