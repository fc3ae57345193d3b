"""Optimisers on the functional update rules of ``torch.optim``.

Its classes import torch's compiler when the first one is made: two to three seconds in every
process, more than many a fit takes. Its functions do not. On a CPU a step is one call on all
parameters side by side: a call for each of the eleven of two recurrent layers costs more than its
arithmetic (hidden 32, one Zen 4 core: 204 microseconds a step of Adam and 71 of clipping, against
11 and 14 on one buffer).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]

_ALIGN = 16  # numbers: every parameter starts on a cache line, as in a tensor of its own
_FUSED = ("cpu", "cuda")  # devices on which torch has one kernel for a whole update


def can_flatten(parameters: Sequence[Tensor]) -> bool:
    """Whether parameters may share a buffer: on a CPU (cuDNN has an order of its own), and only if
    none shares its memory yet.
    """
    alone = {p.untyped_storage().data_ptr() for p in parameters}
    kinds = {(p.device.type, p.dtype, p.layout, p.is_contiguous()) for p in parameters}
    return (
        len(alone) == len(parameters)
        and len(kinds) == 1
        and kinds == {("cpu", parameters[0].dtype, torch.strided, True)}
    )


class Optimizer(ABC):
    """Updates parameters in place from their gradients, with the defaults of ``torch.optim``.

    On a CPU the parameters become views of one buffer until :meth:`release`. ``weight_decay`` is an
    L2 penalty, added to the gradient (decoupled from it in :class:`AdamW`), ``l1`` adds its factor
    times the sign of each number. ``clip_value`` limits each number of the gradient, before its
    norm is; ``max_norm`` is the largest norm of the weights that a unit reads by (Srivastava et al.
    2014, section 5.1), to which they are scaled down after a step. ``momentum`` is of :class:`SGD`.

    >>> import torch
    >>> weight = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = SGD([weight])
    >>> weight.square().sum().backward()
    >>> norm = optimizer.step(0.1)
    >>> optimizer.release()
    >>> weight.detach()
    tensor([ 0.8000, -1.6000])
    """

    n_slots = 1  # tensors that the rule keeps beside every parameter

    def __init__(
        self,
        parameters: Sequence[Tensor],
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        momentum: float = 0.9,
        clip_value: float | None = None,
        max_norm: float | None = None,
    ):
        self.parameters = list(parameters)
        self.weight_decay, self.l1, self.momentum = weight_decay, l1, momentum
        self.clip_value, self.max_norm = clip_value, max_norm
        self.values: list[Tensor] = self.parameters  # what a step works on
        self._flat = can_flatten(self.parameters)
        if self._flat:
            self._sizes = [-(-p.numel() // _ALIGN) * _ALIGN for p in self.parameters]
            buffer = self.parameters[0].detach().new_zeros(sum(self._sizes))
            for parameter, view in zip(self.parameters, self._views(buffer)):
                view.copy_(parameter.detach())
                parameter.data = view
            self.values = [buffer]
            self._gradients = torch.zeros_like(buffer)
            self._gradient_views = self._views(self._gradients)
        self._whole = self._flat  # until a parameter has no gradient
        self._slots = [
            [torch.zeros_like(v, requires_grad=False) for v in self.values]
            for _ in range(self.n_slots)
        ]
        fused = {p.device.type for p in self.parameters} <= {*_FUSED}
        self._fused = {"foreach": not fused, "fused": fused}
        # the fused kernels read them on the device, the others on the CPU
        self._steps = [torch.zeros((), device=v.device if fused else "cpu") for v in self.values]

    def _views(self, buffer: Tensor) -> list[Tensor]:
        parts = zip(buffer.split(self._sizes), self.parameters)
        return [part[: p.numel()].view(p.shape) for part, p in parts]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, limit: float = math.inf) -> Tensor:
        """Update every parameter that has a gradient, at the learning rate ``lr``.

        Gradients whose norm as one vector is above ``limit`` are scaled down to it in place
        (Pascanu et al. 2013, algorithm 1). Returns the norm before that, not yet read.
        """
        there = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        if not there:
            return torch.zeros(())
        gradients: list[Tensor] = [self.parameters[i].grad for i in there]  # type: ignore[misc]
        if self._whole and len(there) < len(self.parameters):  # from now on one by one
            self._whole = False
            self._slots = [self._views(slot[0]) for slot in self._slots]
            self._steps = [self._steps[0].clone() for _ in self.parameters]
        if self._whole:
            torch._foreach_copy_(self._gradient_views, gradients)
            for parameter, view in zip(self.parameters, self._gradient_views):
                parameter.grad = view
            values, gradients, there = self.values, [self._gradients], [0]
        else:
            values = [self.parameters[i] for i in there]
        if self.clip_value is not None:
            torch._foreach_clamp_min_(gradients, -self.clip_value)
            torch._foreach_clamp_max_(gradients, self.clip_value)
        norm = _clip(gradients, limit)
        if self.l1:
            torch._foreach_add_(gradients, [value.sign() for value in values], alpha=self.l1)
        slots = [[slot[i] for i in there] for slot in self._slots]
        self._update(values, gradients, slots, [self._steps[i] for i in there], lr)
        if self.max_norm is not None:
            for weight in self.parameters:
                if weight.dim() == 2:
                    weight.copy_(weight.renorm(2, 0, self.max_norm))
        return norm

    def release(self) -> None:
        """Give the parameters memory of their own again; the optimiser has then done its work."""
        if self._flat:
            for parameter in self.parameters:
                parameter.data = parameter.detach().clone()
                parameter.grad = None

    @abstractmethod
    def _update(self, values: Any, gradients: Any, slots: Any, steps: Any, lr: float) -> None:
        """Update ``values`` and their ``slots``, lists of tensors, in place."""


def _clip(gradients: list[Tensor], limit: float) -> Tensor:
    """Norm of all gradients as one vector, scaled in place to ``limit`` if it is longer."""
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

    n_slots = 2
    rule: Any = staticmethod(adam)

    def _update(self, values, gradients, slots, steps, lr):
        betas = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
        options = {"lr": lr, "weight_decay": self.weight_decay, **betas, **self._fused}
        self.rule(values, gradients, *slots, [], steps, **options)


class AdamW(Adam):
    """Adam with the penalty taken off the weights (Loshchilov & Hutter 2019, algorithm 2)."""

    rule = staticmethod(adamw)


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012, with a memory of 0.99 and epsilon 1e-8."""

    def _update(self, values, gradients, slots, steps, lr):
        fixed = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False}
        several = len(values) > 1  # one buffer takes longer by the functions for lists
        options = {"lr": lr, "weight_decay": self.weight_decay, **fixed, "foreach": several}
        rmsprop(values, gradients, *slots, [], [], steps, **options)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    def _update(self, values, gradients, slots, steps, lr):
        fixed = {"dampening": 0.0, "nesterov": False, "maximize": False, **self._fused}
        options = {"lr": lr, "weight_decay": self.weight_decay, "momentum": self.momentum, **fixed}
        sgd(values, gradients, *slots, has_sparse_grad=False, **options)


# name -> optimiser; weight_decay is the L2 penalty of each
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}
