"""Optimisers as plain tensor arithmetic, with the update rules and defaults of ``torch.optim``.

``torch.optim`` imports torch's compiler when the first optimiser is made: two to three seconds in
every process, more than many a fit takes, and again in each worker of a parallel search. These
classes need none of it. On a CPU they work on all parameters as one (see ``_flat``); elsewhere, and
in a step where some parameter has no gradient, on a list of tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rnnforecast.training._flat import FlatParameters, can_flatten

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]


class Slots:
    """A number of the optimiser's own beside every parameter's, zero at first.

    Attributes
    ----------
    whole : list of Tensor
        What a step on all parameters works on: one buffer, or ``parts``.
    parts : list of Tensor
        One for each parameter, in its shape.
    """

    def __init__(self, parameters: list[Tensor], flat: FlatParameters | None):
        if flat is None:
            self.parts = [torch.zeros_like(p, requires_grad=False) for p in parameters]
            self.whole = self.parts
        else:
            buffer = flat.buffer()
            self.whole, self.parts = [buffer], flat.views(buffer)

    def of(self, present: list[int] | None) -> list[Tensor]:
        """Those of the parameters numbered ``present``; of all for None."""
        return self.whole if present is None else [self.parts[i] for i in present]


class Optimizer(ABC):
    """Updates parameters in place from their gradients.

    Parameters
    ----------
    parameters : sequence of Tensor
        On a CPU they become views of one buffer until :meth:`release`.
    weight_decay : float, default 0.0
        L2 penalty, added to the gradient (decoupled from it in :class:`AdamW`).

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = SGD([weight])
    >>> weight.square().sum().backward()
    >>> norm = optimizer.step(0.1)
    >>> optimizer.release()
    >>> weight.detach()
    tensor([ 0.8000, -1.6000])
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.steps = 0
        self._flat = FlatParameters(self.parameters) if can_flatten(self.parameters) else None

    @property
    def values(self) -> list[Tensor]:
        """What a step works on: one buffer of all parameters, or the parameters."""
        return self.parameters if self._flat is None else [self._flat.values]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, limit: float = math.inf) -> Tensor:
        """Update every parameter that has a gradient.

        Parameters
        ----------
        lr : float
            Learning rate.
        limit : float, default infinity
            Largest norm of all gradients as one vector; longer ones are scaled down to it (Pascanu
            et al. 2013, algorithm 1), in place.

        Returns
        -------
        Tensor, scalar
            The norm before that; reading it is left to the caller, who may want to wait.
        """
        self.steps += 1
        present: list[int] | None = None
        if any(parameter.grad is None for parameter in self.parameters):
            present = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        values: list[Tensor]
        if self._flat is None or present is not None:
            values = self.parameters if present is None else [self.parameters[i] for i in present]
            gradients = [p.grad for p in values if p.grad is not None]
        else:
            self._flat.collect()
            values, gradients = [self._flat.values], [self._flat.gradients]
        if not values:
            return torch.zeros(())
        norm = _clip(gradients, limit)
        if self.weight_decay:
            gradients = self._decayed(values, gradients, lr)
        self._update(values, gradients, lr, present)
        return norm

    def release(self) -> None:
        """Give the parameters memory of their own again; the optimiser has then done its work."""
        if self._flat is not None:
            self._flat.release()
            self._flat = None

    def _decayed(self, values: list[Tensor], gradients: list[Tensor], lr: float) -> list[Tensor]:
        """Gradients with the penalty's, leaving the given ones as they are."""
        return list(torch._foreach_add(gradients, values, alpha=self.weight_decay))

    @abstractmethod
    def _update(
        self, values: list[Tensor], gradients: list[Tensor], lr: float, present: list[int] | None
    ) -> None:
        """Update ``values``, of the parameters numbered ``present`` (None: all), in place."""

    def _slots(self) -> Slots:
        return Slots(self.parameters, self._flat)


def _clip(gradients: list[Tensor], limit: float) -> Tensor:
    """Norm of all gradients as one vector, which are scaled in place to ``limit`` if it is
    longer.
    """
    if len(gradients) == 1:
        norm = torch.linalg.vector_norm(gradients[0])
    else:
        norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
    if limit < math.inf:
        # on the device: no comparison that waits for it
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp_(max=1.0))
    return norm


class Adam(Optimizer):
    """Kingma & Ba 2015, algorithm 1, with beta 0.9 and 0.999 and epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.first, self.second = self._slots(), self._slots()
        devices = {p.device for p in self.parameters}
        # torch's fused kernel without the compiler that torch.optim brings along; it is private, so
        # that it may go: the arithmetic written out stands below
        one = len(devices) == 1 and {d.type for d in devices} <= {"cpu", "cuda"}
        self._kernel = getattr(torch, "_fused_adam_", None) if one else None
        self._count = torch.zeros((), device=devices.pop() if one else None)

    def _update(self, values, gradients, lr, present):
        first, second = self.first.of(present), self.second.of(present)
        if self._kernel is not None:
            self._count.fill_(self.steps)
            self._kernel(
                values,
                gradients,
                first,
                second,
                [],
                [self._count] * len(values),
                lr=lr,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )
            return
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_mul_(second, 0.999)
        torch._foreach_addcmul_(second, gradients, gradients, value=0.001)
        root = math.sqrt(1 - 0.999**self.steps)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, root)
        torch._foreach_add_(denominators, 1e-8)
        torch._foreach_addcdiv_(values, first, denominators, value=-lr / (1 - 0.9**self.steps))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def _decayed(self, values, gradients, lr):
        torch._foreach_mul_(values, 1 - lr * self.weight_decay)
        return gradients


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012, with a memory of 0.99 and epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.square = self._slots()

    def _update(self, values, gradients, lr, present):
        square = self.square.of(present)
        torch._foreach_mul_(square, 0.99)
        torch._foreach_addcmul_(square, gradients, gradients, value=0.01)
        denominators = torch._foreach_sqrt(square)
        torch._foreach_add_(denominators, 1e-8)
        torch._foreach_addcdiv_(values, gradients, denominators, value=-lr)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum 0.9."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0):
        super().__init__(parameters, weight_decay)
        self.velocity = self._slots()

    def _update(self, values, gradients, lr, present):
        velocity = self.velocity.of(present)
        torch._foreach_mul_(velocity, 0.9)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(values, velocity, alpha=-lr)


# name -> optimiser; weight_decay is the L2 penalty of each
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}
