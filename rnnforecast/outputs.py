"""What turns a network's raw output into a forecast and a loss.

An ``Output`` says how many numbers the network gives for each step and target, what forecast they
stand for, and how far that is from the truth. Distribution heads will be further subclasses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "Output", "PointOutput", "QuantileOutput", "masked_mean"]


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
    """Turns raw numbers into a forecast and a loss; ``n_params`` raw numbers a step and target."""

    n_params: int

    @abstractmethod
    def forecast(self, raw: Tensor) -> Tensor:
        """Forecast from ``raw: (..., n_params)``, same shape, in the unit of the window."""

    @abstractmethod
    def point(self, forecast: Tensor) -> Tensor:
        """Point forecast ``(...)`` from ``forecast: (..., n_params)``."""

    @abstractmethod
    def loss(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Scalar loss of ``forecast: (..., n_params)`` to ``truth: (...)``, NaN left out."""


class PointOutput(Output):
    """One number: the point forecast.

    Parameters
    ----------
    loss : str
        Name in ``LOSSES``.
    """

    n_params = 1

    def __init__(self, loss: str):
        self.name = loss  # a name, looked up when used: a saved model holds no code

    def forecast(self, raw: Tensor) -> Tensor:
        return raw

    def point(self, forecast: Tensor) -> Tensor:
        return forecast[..., 0]

    def loss(self, forecast: Tensor, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = forecast[..., 0] - torch.where(mask, truth, torch.zeros_like(truth))
        return masked_mean(LOSSES[self.name](error), mask)


class QuantileOutput(Output):
    """Several quantiles that cannot cross.

    The median is free; every quantile above (below) it adds (subtracts) a positive step, softplus
    of a raw number, to its neighbour. Trained on the pinball loss (Koenker & Bassett 1978, eq.
    2.1), mean over levels.

    Parameters
    ----------
    levels : tuple of float
        Sorted levels, with 0.5 among them.
    """

    def __init__(self, levels: tuple[float, ...]):
        self.levels = levels
        self.n_params = len(levels)
        self._middle = levels.index(0.5)

    def forecast(self, raw: Tensor) -> Tensor:
        middle = self._middle
        median = raw[..., middle : middle + 1]
        below = -functional.softplus(raw[..., :middle]).flip(-1).cumsum(-1).flip(-1)
        above = functional.softplus(raw[..., middle + 1 :]).cumsum(-1)
        return torch.cat([median + below, median, median + above], dim=-1)

    def point(self, forecast: Tensor) -> Tensor:
        return forecast[..., self._middle]

    def loss(self, forecast: Tensor, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = torch.where(mask, truth, torch.zeros_like(truth))[..., None] - forecast
        levels = forecast.new_tensor(self.levels)
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        return masked_mean(pinball, mask)
