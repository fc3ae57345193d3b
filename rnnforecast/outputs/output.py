"""Outputs: what a network's numbers stand for, and how far that is from the truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT
from torch.nn import functional

from rnnforecast.outputs.conformal import ConformalErrors, ConformalForecast
from rnnforecast.outputs.forecast import (
    Forecast,
    NormalForecast,
    PointForecast,
    QuantileForecast,
    StudentTForecast,
)

__all__ = [
    "LOSSES",
    "NormalOutput",
    "Output",
    "PointOutput",
    "QuantileOutput",
    "StudentTOutput",
    "masked_mean",
]

_LEAST = 1e-3  # a spread below this share of the scale would be a likelihood without bounds


def _huber(error: Tensor) -> Tensor:
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none")


# name -> loss of each error (forecast minus truth)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mae": torch.abs,
    "mse": torch.square,
    "huber": _huber,
}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``; zero if nothing is observed."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / mask.sum().clamp(min=1)


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


def _likelihood(distribution: Distribution, truth: Tensor) -> Tensor:
    """Mean negative log-likelihood of what was observed."""
    mask = ~torch.isnan(truth)
    seen = torch.where(mask, truth, torch.zeros_like(truth))
    return masked_mean(-distribution.log_prob(seen), mask)


class NormalOutput(Output):
    """A normal distribution, trained on its likelihood (Salinas et al. 2020, section 3.1).

    Two numbers: the mean, and the standard deviation as softplus of a number, at least a thousandth
    of the scale.

    Examples
    --------
    >>> raw = torch.tensor([[[[1.0, 0.0]]]])  # softplus(0) = 0.693
    >>> said = NormalOutput().forecast(raw, torch.tensor([[[10.0]]]), torch.tensor([[[2.0]]]))
    >>> said.mean.item(), round(said.deviation.item(), 3)
    (12.0, 1.388)
    """

    n_params = 2

    def forecast(self, raw: Tensor, location: Tensor, scale: Tensor) -> NormalForecast:
        deviation = (functional.softplus(raw[..., 1]) + _LEAST) * scale
        return NormalForecast(raw[..., 0] * scale + location, deviation)

    def loss(self, forecast: NormalForecast, truth: Tensor) -> Tensor:
        parts = forecast.centre, forecast.deviation
        return _likelihood(Normal(*parts, validate_args=False), truth)


class StudentTOutput(Output):
    """Student's t distribution, whose tails are learnt too, trained on its likelihood.

    Three numbers: centre; scale, as the deviation of :class:`NormalOutput`; and degrees of freedom,
    which location and scale leave alone: 2 and softplus of a number, so that there is a variance.

    Examples
    --------
    >>> raw = torch.tensor([[[[1.0, 0.0, 3.0]]]])
    >>> said = StudentTOutput().forecast(raw, torch.tensor([[[10.0]]]), torch.tensor([[[2.0]]]))
    >>> said.median.item(), round(said.df.item(), 2)
    (12.0, 5.05)
    """

    n_params = 3

    def forecast(self, raw: Tensor, location: Tensor, scale: Tensor) -> StudentTForecast:
        spread = (functional.softplus(raw[..., 1]) + _LEAST) * scale
        df = 2 + _LEAST + functional.softplus(raw[..., 2])
        return StudentTForecast(raw[..., 0] * scale + location, spread, df)

    def loss(self, forecast: StudentTForecast, truth: Tensor) -> Tensor:
        parts = forecast.df, forecast.centre, forecast.scale
        return _likelihood(StudentT(*parts, validate_args=False), truth)
