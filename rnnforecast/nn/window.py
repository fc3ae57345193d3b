"""What every windowed network does before and after its encoder.

In the unit of each series (standardised by constants from the training rows):

1. The effect ``k(x_t)`` of the known covariates is taken off the targets, r_t = y_t - k(x_t). A
   step's covariates act on that step alone, as in a regression with ARIMA errors, so that a
   forecast never needs the covariates of other future rows.
2. The window of r is shifted and scaled by its own statistics (reversible instance normalisation,
   Kim et al. 2022, eq. 1-2, with the mask) and encoded.
3. The forecast starts from an anchor, to which the decoded deviation in the window's unit is added,
   and ``k(x_h)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnforecast.nn.covariates import CovariateEffect, CovariateEncoder, Spec

__all__ = ["Inputs", "Window", "WindowNetwork", "WindowSpec", "fold", "unfold"]


@dataclass(frozen=True, kw_only=True)
class WindowSpec(Spec):
    """What fixes the shape of a network that reads windows."""

    lookback: int
    segment: int = 1  # neighbouring steps folded into one
    shift: str = "mean"  # what is taken off a window: "last", "mean" (and scaled) or "none"


class Inputs(NamedTuple):
    """One batch: numbers in series units, categories as codes; NaN marks what was not observed."""

    targets: Tensor  # (batch, lookback, n_targets)
    past: Tensor  # (batch, lookback, n_past)
    known: Tensor  # (batch, lookback, n_known)
    future_known: Tensor  # (batch, steps, n_known), steps <= horizon
    static: Tensor  # (batch, n_static)


class Window(NamedTuple):
    """A window of targets less the covariates' effect, and its statistics."""

    residual: Tensor  # (batch, lookback, n_targets), NaN where unobserved
    observed: Tensor  # (batch, lookback, n_targets), bool
    values: Tensor  # (batch, lookback, n_targets), shifted and scaled; 0 where unobserved
    last: Tensor  # (batch, 1, n_targets), as those that follow
    mean: Tensor
    centre: Tensor  # what was taken off
    scale: Tensor


_SCALE_FLOOR = 1e-2  # of a series' standard deviation: a flat window must not blow up its noise


class WindowNetwork(nn.Module, ABC):
    """Covariate effect and window statistics; a subclass encodes and decodes.

    ``spec`` is a :class:`WindowSpec` or a subclass of it.
    """

    def __init__(self, spec: Any):
        super().__init__()
        self.spec = spec
        if spec.known:
            self.effect = CovariateEffect(spec.known, spec.n_targets, spec.hidden_size)
        self.past_columns = CovariateEncoder(spec.past)
        self.static_columns = CovariateEncoder(spec.static)

    @abstractmethod
    def context(self, window: Window, inputs: Inputs) -> Any:
        """Encoding of a window, handed on to ``decode`` and ``add_known``."""

    @abstractmethod
    def decode(self, window: Window, context: Any) -> tuple[Tensor, Tensor]:
        """Raw deviations without covariates, (batch, horizon, n_targets, n_params), and where they
        start from, (batch, horizon, n_targets).
        """

    def add_known(self, raw: Tensor, context: Any, future_known: Tensor) -> Tensor:
        """Raw deviations with what the steps' own covariates change in them, same shape."""
        return raw

    def prime(self, batches: Iterable[tuple[Inputs, Tensor]]) -> None:
        """Choose starting values from some training windows and their truth."""

    # -- the parts, also used one by one when a forecast rolls on ---------------------------------

    def known_effect(self, known: Tensor) -> Tensor | float:
        """What known covariates ``(batch, steps, n_known)`` add to the targets of their steps."""
        return self.effect(known) if self.spec.known else 0.0

    def take_effect(self, inputs: Inputs) -> Tensor:
        """Targets less the effect of their own covariates: (batch, lookback, n_targets)."""
        targets = inputs.targets
        return targets - self.known_effect(inputs.known) if self.spec.known else targets

    def normalise(self, residual: Tensor) -> Window:
        """Shift and scale ``residual: (batch, lookback, n_targets)`` by its own statistics; rows
        before the look-back may stand in front, and are not measured.
        """
        observed = ~torch.isnan(residual)
        values, recent = torch.where(observed, residual, 0.0), slice(-self.spec.lookback, None)
        count = observed[:, recent].sum(1, keepdim=True)
        mean = values[:, recent].sum(1, keepdim=True) / count.clamp(min=1)
        last = last_observed(values[:, recent], observed[:, recent], mean)
        centre = {"last": last, "mean": mean, "none": torch.zeros_like(mean)}[self.spec.shift]
        scale = torch.ones_like(mean)
        # NaN is replaced before the division: behind it, 0 * NaN would reach the gradient
        values = torch.where(observed, values - centre, 0.0)
        if self.spec.shift == "mean":
            scale = values[:, recent].abs().sum(1, keepdim=True) / count.clamp(min=1)
            scale = torch.where(count > 1, scale, 1.0).clamp(min=_SCALE_FLOOR)
            values = values / scale
        return Window(residual, observed, values, last, mean, centre, scale)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Raw output (batch, steps, n_targets, n_params), where it stands (batch, steps, n_targets)
        and its unit (batch, 1, n_targets).
        """
        window = self.normalise(self.take_effect(inputs))
        context = self.context(window, inputs)
        raw, anchor = self.decode(window, context)
        return *self.with_known(raw, anchor, context, inputs.future_known), window.scale

    def says(self, inputs: Inputs) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What is trained, each as of :meth:`forward`."""
        return [self(inputs)]

    def with_known(
        self, raw: Tensor, anchor: Tensor, context: Any, future_known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What was decoded with the covariates of the steps, cut to those that these have."""
        steps = future_known.shape[1]
        raw = self.add_known(raw[:, :steps], context, future_known)
        return raw, anchor[:, :steps] + self.known_effect(future_known)


def last_observed(values: Tensor, observed: Tensor, otherwise: Tensor) -> Tensor:
    """Last observed value along dimension 1, kept as a dimension of one."""
    steps = torch.arange(1, values.shape[1] + 1, dtype=torch.int32, device=values.device)
    steps = steps.view(-1, *[1] * (values.dim() - 2))
    latest = torch.where(observed, steps, 0).amax(1, keepdim=True)
    found = values.gather(1, (latest - 1).clamp(min=0).long())
    return torch.where(latest > 0, found, otherwise)


def by_target(x: Tensor) -> Tensor:
    """(batch, steps, n_targets) to (batch * n_targets, steps, 1)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], 1)


def fold(x: Tensor, segment: int) -> Tensor:
    """Neighbouring steps side by side, the oldest left over: (batch, segments, segment * size)."""
    if segment == 1:
        return x
    n = x.shape[1] // segment
    return x[:, x.shape[1] - n * segment :].reshape(len(x), n, segment * x.shape[2])


def unfold(x: Tensor, size: int, step: int) -> Tensor:
    """Stretches of ``size`` rows every ``step`` rows, those of one row of the batch together:
    (batch, time, features) to (batch * n, size, features).
    """
    n = (x.shape[1] - size) // step + 1
    return x.unfold(1, size, step).transpose(2, 3).reshape(len(x) * n, size, x.shape[2])
