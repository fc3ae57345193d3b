"""Parameters side by side in one buffer, so that an optimiser's step is a few calls on one tensor.

A network of two recurrent layers has eleven parameters of some thousand numbers: a call for each
costs more than its arithmetic (hidden 32, one Zen 4 core: 204 microseconds a step of Adam and 71 of
clipping, against 11 and 14 on one buffer).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["FlatParameters", "can_flatten"]

_ALIGN = 16  # numbers: every parameter starts on a cache line, as in a tensor of its own


def can_flatten(parameters: Sequence[Tensor]) -> bool:
    """Whether parameters may share a buffer.

    On a CPU only: cuDNN wants the weights of a layer in an order of its own. Parameters that
    already share memory stay as they are.
    """
    first = parameters[0] if parameters else None
    alone = {p.untyped_storage().data_ptr() for p in parameters}
    return (
        first is not None
        and len(alone) == len(parameters)
        and all(
            p.device.type == "cpu"
            and p.dtype == first.dtype
            and p.layout == torch.strided
            and p.is_contiguous()
            for p in parameters
        )
    )


class FlatParameters:
    """One buffer for parameters, one for their gradients, and views of any further buffer.

    The parameters become views; :meth:`release` gives each its own memory again.

    Parameters
    ----------
    parameters : sequence of Tensor
        For which :func:`can_flatten` is true.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self._parameters = list(parameters)
        self._sizes = [-(-p.numel() // _ALIGN) * _ALIGN for p in self._parameters]
        self.values = self.buffer()
        self.gradients = self.buffer()
        self.gradient_views = self.views(self.gradients)
        for parameter, view in zip(self._parameters, self.views(self.values)):
            view.copy_(parameter.detach())
            parameter.data = view

    def buffer(self) -> Tensor:
        """Zeros for all parameters, shape (n,)."""
        first = self._parameters[0]
        return torch.zeros(sum(self._sizes), dtype=first.dtype)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer, each in its parameter's shape."""
        parts = buffer.split(self._sizes)
        return [
            part[: parameter.numel()].view(parameter.shape)
            for part, parameter in zip(parts, self._parameters)
        ]

    def collect(self) -> None:
        """Move the gradients, all of which must be there, into their buffer."""
        found = [p.grad for p in self._parameters if p.grad is not None]
        torch._foreach_copy_(self.gradient_views, found)
        for parameter, view in zip(self._parameters, self.gradient_views):
            parameter.grad = view

    def release(self) -> None:
        """Give every parameter memory of its own."""
        for parameter in self._parameters:
            parameter.data = parameter.detach().clone()
            parameter.grad = None
