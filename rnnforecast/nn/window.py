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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnforecast.nn.covariates import CovariateEffect, CovariateEncoder

__all__ = ["Inputs", "Window", "WindowNetwork", "by_target", "fold", "last_observed", "unfold"]


class Inputs(NamedTuple):
    """One batch: numbers in series units, categories as codes; NaN marks what was not observed."""

    targets: Tensor  # (batch, lookback, n_targets)
    past: Tensor  # (batch, lookback, n_past)
    known: Tensor  # (batch, lookback, n_known)
    future_known: Tensor  # (batch, steps, n_known), steps <= horizon
    static: Tensor  # (batch, n_static)


class Window(NamedTuple):
    """A window of targets less the covariates' effect, shifted and scaled; 0 where unobserved."""

    values: Tensor  # (batch, lookback, n_targets)
    observed: Tensor  # (batch, lookback, n_targets), bool
    anchors: Tensor  # (batch, horizon, n_targets, 3): last value, mean, last season as forecasts
    centre: Tensor  # (batch, 1, n_targets)
    scale: Tensor  # (batch, 1, n_targets)


_SCALE_FLOOR = 1e-2  # of a series' standard deviation: a flat window must not blow up its noise


class WindowNetwork(nn.Module, ABC):
    """Covariate effect, window statistics and anchors; a subclass encodes and decodes.

    ``spec`` has at least ``n_targets, n_past, n_known, n_static, lookback, horizon, season,
    n_params, hidden_size, normalise, past_levels, known_levels, static_levels``.
    """

    def __init__(self, spec: Any):
        super().__init__()
        self.spec = spec
        if spec.n_known:
            self.effect = CovariateEffect(
                spec.n_known, spec.n_targets, spec.hidden_size, spec.known_levels
            )
        self.past_columns = CovariateEncoder(spec.n_past, spec.past_levels)
        self.static_columns = CovariateEncoder(spec.n_static, spec.static_levels)

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

    def take_effect(self, inputs: Inputs) -> Tensor:
        """Targets less the effect of their own covariates: (batch, lookback, n_targets)."""
        if not self.spec.n_known:
            return inputs.targets
        return inputs.targets - self.effect(inputs.known)

    def take_known(self, inputs: Inputs, truth: Tensor) -> Tensor:
        """``truth: (batch, horizon, n_targets)`` less the effect of its own covariates."""
        return truth - self.effect(inputs.future_known) if self.spec.n_known else truth

    def normalise(self, residual: Tensor) -> Window:
        """Statistics of a window; ``residual: (batch, lookback, n_targets)``."""
        observed = ~torch.isnan(residual)
        values = torch.where(observed, residual, 0.0)
        count = observed.sum(1, keepdim=True)
        mean = values.sum(1, keepdim=True) / count.clamp(min=1)
        last = last_observed(values, observed, mean)
        constants = (one.expand(-1, self.spec.horizon, -1) for one in (last, mean))
        anchors = torch.stack([*constants, self._last_season(values, observed, mean)], dim=-1)
        deviation = torch.where(observed, (values - mean).abs(), 0.0)
        scale = deviation.sum(1, keepdim=True) / count.clamp(min=1)
        scale = torch.where(count > 1, scale, 1.0).clamp(min=_SCALE_FLOOR)
        if not self.spec.normalise:
            scale = torch.ones_like(scale)
        centre = mean if self.spec.normalise else torch.zeros_like(mean)
        # NaN is replaced before the division: behind it, 0 * NaN would reach the gradient
        unit = torch.where(observed, (values - centre) / scale, 0.0)
        return Window(unit, observed, anchors, centre, scale)

    def _last_season(self, values: Tensor, observed: Tensor, mean: Tensor) -> Tensor:
        """The last observed value of each step's phase: (batch, horizon, n_targets)."""
        season, horizon = self.spec.season, self.spec.horizon
        cycles = self.spec.lookback // season
        if season == 1 or cycles == 0:
            return last_observed(values, observed, mean).expand(-1, horizon, -1)
        shape = (len(values), cycles, season, values.shape[-1])
        used = values[:, -cycles * season :].reshape(shape)
        seen = observed[:, -cycles * season :].reshape(shape)
        one = last_observed(used, seen, mean[:, :, None].expand(-1, 1, season, -1))[:, 0]
        phase = torch.arange(horizon, device=values.device) % season
        return one[:, phase]

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Raw output (batch, steps, n_targets, n_params), where it stands (batch, steps, n_targets)
        and its unit (batch, 1, n_targets).
        """
        window = self.normalise(self.take_effect(inputs))
        return self._locate(window, self.context(window, inputs), inputs.future_known)

    def _locate(
        self, window: Window, context: Any, future_known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        raw, anchor = self.decode(window, context)
        steps = future_known.shape[1]
        raw = self.add_known(raw[:, :steps], context, future_known)
        location = anchor[:, :steps]
        if self.spec.n_known:
            location = location + self.effect(future_known)
        return raw, location, window.scale


def last_observed(values: Tensor, observed: Tensor, otherwise: Tensor) -> Tensor:
    """Last observed value along dimension 1, kept as a dimension of one."""
    steps = torch.arange(1, values.shape[1] + 1, device=values.device)
    steps = steps.view(-1, *[1] * (values.dim() - 2))
    latest = torch.where(observed, steps, 0).amax(1, keepdim=True)
    found = values.gather(1, (latest - 1).clamp(min=0))
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
