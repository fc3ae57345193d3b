"""The forecasting network: normalise the window, encode it, decode all steps at once.

In the unit of each series (standardised by constants from the training rows):

1. The effect ``k(x_t)`` of the known covariates is taken off the targets, r_t = y_t - k(x_t). A
   step's covariates act on that step alone, as in a regression with ARIMA errors, so that a
   forecast never needs the covariates of other future rows.
2. The window of r is shifted and scaled by its own statistics (reversible instance normalisation,
   Kim et al. 2022, eq. 1-2, with the mask), and encoded by a stack of recurrent layers.
3. The forecast starts from an anchor (a learnt mixture of the window's last value, its mean and its
   last season, plus a linear map of the window), to which the decoded deviation in the window's
   unit is added, ``k(x_h)``, and an interaction of x_h with the encoding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.layers import RecurrentStack

__all__ = ["ForecastNetwork", "Inputs", "NetworkSpec"]


class Inputs(NamedTuple):
    """One batch in series units; NaN marks what was not observed.

    Attributes
    ----------
    targets : (batch, lookback, n_targets)
    past : (batch, lookback, n_past)
    known : (batch, lookback, n_known)
    future_known : (batch, steps, n_known), steps <= horizon
    static : (batch, n_static)
    """

    targets: Tensor
    past: Tensor
    known: Tensor
    future_known: Tensor
    static: Tensor


class NetworkSpec(NamedTuple):
    """Everything that fixes a network's shape, as plain numbers and names."""

    n_targets: int
    n_past: int
    n_known: int
    n_static: int
    lookback: int
    horizon: int
    season: int
    n_params: int
    cell: str
    hidden_size: int
    n_layers: int
    bidirectional: bool
    residual: bool
    dropout: float
    normalise: bool


class Window(NamedTuple):
    """A normalised window.

    Attributes
    ----------
    values : (batch, lookback, n_targets)
        Targets less the covariates' effect, shifted and scaled; 0 where unobserved.
    observed : (batch, lookback, n_targets), bool
    anchors : (batch, horizon, n_targets, 3)
        Last value, mean and last season as forecasts.
    scale : (batch, 1, n_targets)
    """

    values: Tensor
    observed: Tensor
    anchors: Tensor
    scale: Tensor


_SCALE_FLOOR = 1e-2  # of a series' standard deviation: a flat window must not blow up its noise


class ForecastNetwork(nn.Module):
    """Encoder, decoder and covariate effects for one :class:`NetworkSpec`."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        seasonal = spec.n_targets if spec.season > 1 else 0
        # values, seasonal differences, missing marks; past covariates and their marks
        size = 2 * spec.n_targets + seasonal + 2 * spec.n_past
        self._marks = [
            *range(spec.n_targets + seasonal, 2 * spec.n_targets + seasonal),
            *range(size - spec.n_past, size),
        ]
        self.encoder = RecurrentStack(
            spec.cell,
            size,
            spec.hidden_size,
            spec.n_layers,
            spec.bidirectional,
            spec.residual,
            spec.dropout,
        )
        context = self.encoder.output_size + spec.n_static
        self.head = nn.Linear(context, spec.horizon * spec.n_targets * spec.n_params)
        self.skip = nn.Linear(spec.lookback, spec.horizon, bias=False)
        self.anchor_logits = nn.Parameter(torch.zeros(spec.horizon, 3))
        if spec.n_known:
            self.effect = CovariateEffect(spec.n_known, spec.n_targets, spec.hidden_size)
            self.interaction = Interaction(
                context, spec.n_known, spec.hidden_size, spec.n_targets * spec.n_params
            )

    def reset(self, generator: torch.Generator) -> None:
        """Start at the anchor's forecast, and blind to missing marks until training shows some."""
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.skip.weight.zero_()
            self.anchor_logits.zero_()
            first = self.encoder.layers[0]
            for name, weight in first.named_parameters():
                if "weight_ih" in name:
                    weight[:, self._marks] = 0.0

    # -- the parts, also used one by one when a forecast rolls on ---------------------------------

    def take_effect(self, inputs: Inputs) -> Tensor:
        """Targets less the effect of their own covariates: (batch, lookback, n_targets)."""
        if not self.spec.n_known:
            return inputs.targets
        return inputs.targets - self.effect(inputs.known)

    def normalise(self, residual: Tensor) -> Window:
        """Statistics of a window; ``residual: (batch, lookback, n_targets)``."""
        observed = ~torch.isnan(residual)
        values = torch.where(observed, residual, torch.zeros_like(residual))
        count = observed.sum(1, keepdim=True)
        mean = values.sum(1, keepdim=True) / count.clamp(min=1)
        last = _last_observed(values, observed, mean)
        anchors = torch.stack(
            [
                last.expand(-1, self.spec.horizon, -1),
                mean.expand(-1, self.spec.horizon, -1),
                self._last_season(values, observed, mean),
            ],
            dim=-1,
        )
        deviation = torch.where(observed, (values - mean).abs(), torch.zeros_like(values))
        scale = deviation.sum(1, keepdim=True) / count.clamp(min=1)
        scale = torch.where(count > 1, scale, torch.ones_like(scale)).clamp(min=_SCALE_FLOOR)
        if not self.spec.normalise:
            scale = torch.ones_like(scale)
        centre = mean if self.spec.normalise else torch.zeros_like(mean)
        # NaN was replaced before the division: behind it, 0 * NaN would reach the gradient
        unit = torch.where(observed, (values - centre) / scale, torch.zeros_like(values))
        return Window(unit, observed, anchors, scale)

    def _last_season(self, values: Tensor, observed: Tensor, mean: Tensor) -> Tensor:
        """The last observed value of each step's phase: (batch, horizon, n_targets)."""
        season, horizon = self.spec.season, self.spec.horizon
        cycles = self.spec.lookback // season
        if season == 1 or cycles == 0:
            return _last_observed(values, observed, mean).expand(-1, horizon, -1)
        shape = (len(values), cycles, season, values.shape[-1])
        used = values[:, -cycles * season :].reshape(shape)
        seen = observed[:, -cycles * season :].reshape(shape)
        one = _last_observed(used, seen, mean[:, :, None].expand(-1, 1, season, -1))[:, 0]
        phase = torch.arange(horizon, device=values.device) % season
        return one[:, phase]

    def encode(self, window: Window, past: Tensor) -> Tensor:
        """Context of the window: (batch, encoder output size)."""
        values, observed = window.values, window.observed
        parts = [values]
        season = self.spec.season
        if season > 1:
            both = observed[:, season:] & observed[:, :-season]
            step = torch.where(both, values[:, season:] - values[:, :-season], 0.0)
            parts.append(functional.pad(step, (0, 0, min(season, values.shape[1]), 0)))
        parts.append((~observed).to(values.dtype))
        if self.spec.n_past:
            missing = torch.isnan(past)
            parts += [torch.where(missing, 0.0, past), missing.to(values.dtype)]
        return self.encoder(torch.cat(parts, dim=-1))[1]

    def decode(self, window: Window, context: Tensor) -> tuple[Tensor, Tensor]:
        """Raw deviations without covariates, and where they start from.

        Returns
        -------
        raw : (batch, horizon, n_targets, n_params)
        anchor : (batch, horizon, n_targets)
            Mixture of the naive forecasts, plus a linear map of the window shared by all targets
            (the skip beside the recurrent path; Zeng et al. 2023, eq. 1).
        """
        spec = self.spec
        raw = self.head(context).view(-1, spec.horizon, spec.n_targets, spec.n_params)
        mixture = torch.softmax(self.anchor_logits, dim=-1)  # (horizon, 3)
        anchor = (window.anchors * mixture[None, :, None, :]).sum(-1)
        linear = self.skip(window.values.transpose(1, 2)).transpose(1, 2)
        return raw, anchor + linear * window.scale

    def add_known(self, raw: Tensor, context: Tensor, future_known: Tensor) -> Tensor:
        """Raw deviations with the interaction of the steps' own covariates, same shape."""
        if not self.spec.n_known:
            return raw
        return raw + self.interaction(context, future_known).view(raw.shape)

    def context(self, window: Window, inputs: Inputs) -> Tensor:
        """Encoding with the static covariates beside it."""
        encoded = self.encode(window, inputs.past)
        return torch.cat([encoded, inputs.static], dim=-1) if self.spec.n_static else encoded

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Raw output, where it stands and its unit.

        Returns
        -------
        raw : (batch, steps, n_targets, n_params)
        location : (batch, steps, n_targets)
            Anchor plus the effect of the covariates.
        scale : (batch, 1, n_targets)
        """
        window = self.normalise(self.take_effect(inputs))
        context = self.context(window, inputs)
        raw, anchor = self.decode(window, context)
        steps = inputs.future_known.shape[1]
        raw = self.add_known(raw[:, :steps], context, inputs.future_known)
        location = anchor[:, :steps]
        if self.spec.n_known:
            location = location + self.effect(inputs.future_known)
        return raw, location, window.scale


class CovariateEffect(nn.Module):
    """k(x): what known covariates add to the targets of their own step, linear plus one hidden
    layer.
    """

    def __init__(self, n_known: int, n_targets: int, hidden_size: int):
        super().__init__()
        self.n_known = n_known
        self.linear = nn.Linear(2 * n_known, n_targets)
        self.hidden = nn.Linear(2 * n_known, hidden_size)
        self.out = nn.Linear(hidden_size, n_targets, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without effect; marks of missing values start at zero weight."""
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            self.hidden.weight[:, self.n_known :] = 0.0
            self.out.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, time, n_known), NaN where missing; returns (batch, time, n_targets)."""
        missing = torch.isnan(x)
        x = torch.cat([torch.where(missing, 0.0, x), missing.to(x.dtype)], dim=-1)
        return self.linear(x) + self.out(functional.gelu(self.hidden(x)))


class Interaction(nn.Module):
    """How the encoding changes what covariates do; exactly zero for covariates at their mean."""

    def __init__(self, context_size: int, n_known: int, hidden_size: int, n_out: int):
        super().__init__()
        self.context = nn.Linear(context_size, hidden_size)
        self.known = nn.Linear(n_known, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, n_out, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without interaction."""
        with torch.no_grad():
            self.out.weight.zero_()

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        """context: (batch, size); x: (batch, steps, n_known); returns (batch, steps, n_out)."""
        base = self.context(context)[:, None]
        x = torch.where(torch.isnan(x), 0.0, x)
        return self.out(functional.gelu(base + self.known(x)) - functional.gelu(base))


def _last_observed(values: Tensor, observed: Tensor, otherwise: Tensor) -> Tensor:
    """Last observed value along dimension 1, kept as a dimension of one."""
    n = values.shape[1]
    steps = torch.arange(1, n + 1, device=values.device)
    steps = steps.view(-1, *[1] * (values.dim() - 2))
    latest = torch.where(observed, steps, 0).amax(1, keepdim=True)
    found = values.gather(1, (latest - 1).clamp(min=0))
    return torch.where(latest > 0, found, otherwise)
