"""The autoregressive recurrent forecaster of Salinas et al. 2020 ("DeepAR")."""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast._validation import check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn.autoregressive import AutoregressiveNetwork, AutoregressiveSpec
from rnnforecast.outputs import ConformalErrors, Output, SampleForecast, StudentTOutput
from rnnforecast.parameters import checked, estimator
from rnnforecast.training import seeds_of
from rnnforecast.training.source import Batch

__all__ = ["DeepARForecaster"]


@estimator
class DeepARForecaster(WindowForecaster):
    """Autoregressive recurrent network that forecasts by sampling (Salinas et al. 2020, "DeepAR",
    arXiv:1704.04110).

    The network reads one value after another and gives the distribution of the next. A forecast
    draws paths: each value drawn is read before the next one is. So quantiles, and what is asked of
    whole paths, such as the distribution of a sum over the horizon, come from one joint
    distribution of all steps, and a forecast goes on beyond the horizon as it does before it.

    Several targets are rows of one network with shared weights. Known covariates act on the targets
    of their own step.

    Parameters
    ----------
    output : rnnforecast.outputs.Output, optional
        Distribution of the next value: ``NormalOutput()``, for example. None: ``StudentTOutput()``.
    n_samples : int, default 100
        Paths of a forecast. Its extreme quantiles are those of so many paths: more of them give
        quantiles such as 0.99.
    n_layers : int, default 2
    segment : {1, None}, default 1
        There for the other windowed forecasters: this one reads step by step.
    loss, quantiles : "mae" and None
        There for the other forecasters: this one is trained on the likelihood of its ``output``,
        and every quantile can be asked of its paths.

    Attributes
    ----------
    noise_seed_ : int
        From ``random_state``: what the paths of every forecast are drawn with.
    conformal_ : ConformalErrors
        Empty: the intervals are those of the paths.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepARForecaster
    >>> index = pd.date_range("2024-01-01", periods=200, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(200) * np.pi / 12)}, index=index)
    >>> fc = DeepARForecaster(horizon=3, max_epochs=2, random_state=0).fit(df)
    >>> fc.forecast(quantiles=[0.1, 0.9]).shape
    (3, 2)
    >>> fc.sample(50).sum().shape  # sums over the horizon
    (50,)
    """

    n_samples: int = checked(100, check_int)
    n_layers: int = checked(2, check_int)
    segment: int | None = checked(1, check_choice, choices=(1, None))

    if TYPE_CHECKING:  # fitted, and so no parameters
        noise_seed_: int = field(init=False)

    _segment_rule = staticmethod(lambda season, lookback: 1)

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name, only in (("loss", "mae"), ("quantiles", None)):
            if getattr(self, name) != only:
                raise DataError(
                    f"{owner}: {name} must be {only!r}, since the likelihood of output= is trained "
                    f"and quantiles are asked of forecast(). Got {getattr(self, name)!r}"
                )
        output = self._make_output()
        zeros = torch.zeros(1, 1, 1)
        try:
            said = output.forecast(torch.zeros(1, 1, 1, output.n_params), zeros, zeros + 1)
            said.value_at(zeros + 0.5)
        except DataError as error:
            raise DataError(
                f"{owner}: output must have a whole distribution to sample from, such as "
                f"NormalOutput(). Got {type(output).__name__}"
            ) from error

    def _choose(self, panel):
        return {**super()._choose(panel), "noise_seed_": seeds_of(self.random_state, 1)[0]}

    def _make_output(self) -> Output:
        return StudentTOutput() if self.output is None else super()._make_output()

    def _network(self, shape: dict[str, Any]) -> Any:
        return AutoregressiveNetwork(
            AutoregressiveSpec(
                **shape,
                shift="mean" if self.scaler == "window" else "none",
                season=self.seasonality_,
                n_layers=self.n_layers,
            )
        )

    def _losses(self, output: Output) -> tuple[Any, Any]:
        # what a window was scaled by knows the values in it: none of them is trained on then
        whole = self.scaler != "window"
        return partial(_likelihood, output, whole), partial(_likelihood, output, False)

    def _calibrate(self, panel, windows):
        return ConformalErrors(np.empty((0, self.horizon, panel.targets.shape[1])))

    # -- forecasts ---------------------------------------------------------------------------------

    def _numbers_a_forecast(self, network: Any) -> int:
        return super()._numbers_a_forecast(network) + self.n_samples * network.spec.hidden_size

    def _blocks(self, member, history, series, origins, known):
        network, (series_loc, series_scale) = self.networks_[member], self._units(series)
        inputs = self._inputs(network, history, series, origins)
        window = network.normalise(network.take_effect(inputs))
        context = network.spread(network.context(window, inputs), self.n_samples)
        ahead = torch.as_tensor(self.scale_.known(known)).to(inputs.targets)
        # the same for every row, and step by step: no row depends on others, no step on later ones
        noise = torch.Generator().manual_seed(self.noise_seed_)
        shape = (len(series), self.n_samples, network.spec.n_targets)
        one, value = torch.ones(shape, dtype=torch.float64), None
        for block in ahead.split(network.spec.horizon, 1):
            drawn = []
            for _ in range(block.shape[1]):
                if value is not None:
                    context = network.read(context, value.flatten().to(inputs.targets))
                raw, start = context.raw.view(*shape, -1), context.start.view(shape)
                said = self.output_.forecast(raw.cpu().double(), start.cpu().double(), one)
                value = said.value_at(_levels(*shape[1:], noise))
                drawn.append(value)
            centre = window.centre + network.known_effect(block)
            centre, scale = (part.cpu().double()[:, :, None] for part in (centre, window.scale))
            paths = centre + scale * torch.stack(drawn, 1)  # (rows, steps, paths, targets)
            paths = series_loc[:, :, None] + series_scale[:, :, None] * paths
            yield SampleForecast(paths.transpose(2, 3))


def _levels(n_paths: int, n_targets: int, generator: torch.Generator) -> Tensor:
    """Levels of one step to draw at, (n_paths, n_targets): one in each of as many equal parts of
    (0, 1), and mirrored in the middle, so that few paths do not shift the forecast (McKay et al.
    1979, Technometrics 21(2), "Latin hypercube sampling").
    """
    shape = ((n_paths + 1) // 2, n_targets)
    place, within, side = torch.rand((3, *shape), generator=generator, dtype=torch.float64)
    level = (place.argsort(0) + within) / n_paths
    level = torch.where(side < 0.5, level, 1 - level)
    level = torch.cat([level, 1 - level.flip(0)])[:n_paths]
    return level.clamp(1e-9, 1 - 1e-9)


def _likelihood(output: Output, whole: bool, network: Any, batch: Batch) -> Tensor:
    """Loss of the steps ahead, and if ``whole`` of those of the look-back too."""
    truth = batch.truth
    forecast = output.forecast(*network(batch.inputs, truth, whole))
    if whole:
        truth = torch.cat([batch.inputs.targets[:, 1:], truth], 1)
    return output.loss(forecast, truth)
