"""A trained network with the units of its data: forecasts of windows, rolled on beyond the
horizon.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import gather
from rnnforecast.nn import Inputs, WindowNetwork
from rnnforecast.outputs import Output
from rnnforecast.training.source import Units, to_inputs

__all__ = ["NetworkModel", "windows_at_once"]

_CHUNK_NUMBERS = 1 << 22  # hidden states in one pass: bounds the memory of a forecast


def windows_at_once(network: WindowNetwork) -> int:
    """Windows that are forecast in one pass: bounds the memory of it."""
    each = network.spec.lookback * network.spec.hidden_size
    return min(max(_CHUNK_NUMBERS // each, 16), 512)


@dataclass(frozen=True)
class NetworkModel:
    """Network, output and units, as kept by a fitted forecaster.

    On a CPU the network computes forecasts in float64: then a row's forecast is the same to 1e-12
    whatever rows stand beside it in a batch, which float32 matrix products do not give.
    """

    network: WindowNetwork
    output: Output
    units: Units

    @property
    def lookback(self) -> int:
        return self.network.spec.lookback

    @property
    def horizon(self) -> int:
        return self.network.spec.horizon

    @property
    def networks(self) -> list[WindowNetwork]:
        return [self.network]

    def on_cpu(self) -> NetworkModel:
        """The same model on the CPU; itself if it is there."""
        if next(self.network.parameters()).device.type == "cpu":
            return self
        network = copy.deepcopy(self.network).to("cpu").double()
        return NetworkModel(network, self.output, self.units)

    @property
    def _chunk(self) -> int:
        """Windows in one pass."""
        return windows_at_once(self.network)

    def future(
        self,
        panel: Panel,
        series: np.ndarray,
        n_steps: int,
        known: np.ndarray,
        origins: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecasts after the history of each series, or after its first ``origins`` rows.

        Returns
        -------
        ndarray, shape (n_series, n_steps, n_targets, n_params)
        """
        parts = []
        origins = panel.lengths[series] if origins is None else origins
        for start in range(0, len(series), self._chunk):
            chunk = series[start : start + self._chunk]
            at = origins[start : start + self._chunk]
            inputs = self._inputs(panel, chunk, at)
            future = self._tensor(self.units.known(known[start : start + self._chunk]))
            statics = [
                self._tensor(self.units.constants(panel, chunk, at + later))
                for later in range(0, n_steps, self.horizon)
            ]
            values = self._roll(inputs, n_steps, future, statics)
            parts.append(self.units.restore(values.cpu().numpy().astype(np.float64), chunk))
        return np.concatenate(parts)

    def in_sample(
        self, panel: Panel, series: np.ndarray, positions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """One-step forecasts of rows of the history: (n, n_targets, n_params)."""
        parts = []
        for start in range(0, len(series), self._chunk):
            part = slice(start, start + self._chunk)
            inputs = self._inputs(panel, series[part], positions[part])
            future = self._tensor(self.units.known(known[part]))[:, None]
            values = self._roll(inputs, 1, future, [inputs.static]).cpu().numpy().astype(np.float64)
            parts.append(self.units.restore(values, series[part])[:, 0])
        return np.concatenate(parts)

    def future_from(
        self,
        inputs: Inputs,
        encoded: np.ndarray,
        panel: Panel,
        n_steps: int,
        known: np.ndarray,
        origins: np.ndarray,
    ) -> np.ndarray:
        """As ``future``, of all series, from windows that were encoded elsewhere.

        Parameters
        ----------
        inputs : Inputs
            The windows before ``origins``, in series units.
        encoded : ndarray, shape (rows, encoder output size)
        """
        series = np.arange(panel.n_series)
        inputs = Inputs(*(self._tensor(part) for part in inputs))
        statics = [
            self._tensor(self.units.constants(panel, series, origins + later))
            for later in range(0, n_steps, self.horizon)
        ]
        future = self._tensor(self.units.known(known))
        values = self._roll(inputs, n_steps, future, statics, self._tensor(encoded))
        return self.units.restore(values.cpu().numpy().astype(np.float64), series)

    def _tensor(self, values: np.ndarray | Tensor) -> Tensor:
        weight = next(self.network.parameters())
        return torch.as_tensor(values).to(device=weight.device, dtype=weight.dtype)

    def _inputs(self, panel: Panel, series: np.ndarray, origins: np.ndarray) -> Inputs:
        weight = next(self.network.parameters())
        batch = gather(panel, series, origins, self.lookback, 0)
        constants = self.units.constants(panel, series, origins)
        return to_inputs(batch, self.units, constants, weight.device, weight.dtype).inputs

    @torch.inference_mode()
    def _roll(
        self,
        inputs: Inputs,
        n_steps: int,
        known: Tensor,
        statics: list[Tensor],
        encoded: Tensor | None = None,
    ) -> Tensor:
        """Blocks of ``horizon`` steps, each from a window that ends with the block before it, with
        the constants of its own origin.

        What is fed back is the point forecast without the covariates' effect, so that a row's
        forecast depends on its own covariates alone.

        Returns
        -------
        Tensor, shape (batch, n_steps, n_targets, n_params), in series units
        """
        network: Any = self.network
        horizon = self.horizon
        residual, past = network.take_effect(inputs), inputs.past
        blocks: list[Tensor] = []
        for start, static in zip(range(0, n_steps, horizon), statics):
            window = network.normalise(residual)
            if encoded is not None and start == 0:
                context = network.with_static(encoded, static)
            else:
                context = network.context(window, inputs._replace(past=past, static=static))
            raw, anchor = network.decode(window, context)
            scale = window.scale[..., None]
            steps = min(horizon, n_steps - start)
            block = known[:, start : start + steps]
            with_known = network.add_known(raw[:, :steps], context, block)
            values = self.output.forecast(with_known) * scale + anchor[:, :steps, :, None]
            if network.spec.n_known:
                values = values + network.effect(block)[..., None]
            blocks.append(values)
            if start + horizon < n_steps:
                plain = self.output.point(self.output.forecast(raw)) * window.scale + anchor
                residual = torch.cat([residual, plain], 1)[:, -self.lookback :]
                unknown = past.new_full((len(past), horizon, past.shape[-1]), torch.nan)
                past = torch.cat([past, unknown], 1)[:, -self.lookback :]
        return self._widen(torch.cat(blocks, 1))

    def _widen(self, values: Tensor) -> Tensor:
        """Spreads beyond the horizon, grown from those inside it (between not at all and a random
        walk's root).
        """
        n, horizon = values.shape[1], self.horizon
        if n <= horizon or self.output.n_params == 1:
            return values
        point = self.output.point(values)[..., None]
        edge = values[:, horizon - 1 : horizon] - point[:, horizon - 1 : horizon]
        steps = torch.arange(horizon + 1, n + 1, device=values.device, dtype=values.dtype)
        if horizon == 1:
            growth = torch.full_like(edge[..., :1], 0.5)
        else:
            widths = values[..., -1:] - values[..., :1]
            ratio = widths[:, horizon - 1 : horizon] / widths[:, :1].clamp(min=1e-12)
            growth = (ratio.clamp(min=1e-12).log() / math.log(horizon)).clamp(0.0, 0.5)
        grow = (steps / horizon)[None, :, None, None] ** growth
        return torch.cat([values[:, :horizon], point[:, horizon:] + edge * grow], 1)
