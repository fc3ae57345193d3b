"""Optimisers as plain tensor arithmetic, with the update rules and defaults of ``torch.optim``.

``torch.optim`` imports torch's compiler when the first optimiser is made: two to three seconds in
every process, more than many a fit takes, and again in each worker of a parallel search. These
classes need none of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]


class Optimizer(ABC):
    """Updates parameters in place from their gradients.

    Parameters
    ----------
    parameters : sequence of Tensor
    weight_decay : float, default 0.0
        L2 penalty, added to the gradient (decoupled from it in :class:`AdamW`).
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, at learning rate ``lr``."""
        self.steps += 1
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                self._update(i, parameter, self._decayed(parameter, lr), lr)

    def _decayed(self, parameter: Tensor, lr: float) -> Tensor:
        if not self.weight_decay:
            return parameter.grad  # type: ignore[return-value]
        return parameter.grad.add(parameter, alpha=self.weight_decay)  # type: ignore[union-attr]

    @abstractmethod
    def _update(self, i: int, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        """Update parameter number ``i`` in place; ``gradient`` may be written over no more."""

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.parameters]


class Adam(Optimizer):
    """Kingma & Ba 2015, algorithm 1, with beta 0.9 and 0.999 and epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.first, self.second = self._zeros(), self._zeros()

    def _update(self, i, parameter, gradient, lr):
        first, second = self.first[i], self.second[i]
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = math.sqrt(1 - 0.999**self.steps)
        denominator = second.sqrt().div_(root).add_(1e-8)
        parameter.addcdiv_(first, denominator, value=-lr / (1 - 0.9**self.steps))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def _decayed(self, parameter, lr):
        if self.weight_decay:
            parameter.mul_(1 - lr * self.weight_decay)
        return parameter.grad


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012, with a memory of 0.99 and epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.square = self._zeros()

    def _update(self, i, parameter, gradient, lr):
        square = self.square[i]
        square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        parameter.addcdiv_(gradient, square.sqrt().add_(1e-8), value=-lr)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum 0.9."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.velocity = self._zeros()

    def _update(self, i, parameter, gradient, lr):
        velocity = self.velocity[i]
        velocity.mul_(0.9).add_(gradient)
        parameter.add_(velocity, alpha=-lr)


# name -> optimiser; weight_decay is the L2 penalty of each
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}
