"""What every forecaster with a trained network shares, whatever the network reads."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from rnnforecast._validation import (
    check_bool,
    check_choice,
    check_int,
    check_quantiles,
)
from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.outputs import (
    AGGREGATES,
    LOSSES,
    ConformalErrors,
    Forecast,
    Output,
    PointOutput,
    QuantileOutput,
    TransformedForecast,
)
from rnnforecast.parameters import checked, estimator
from rnnforecast.training import Learner
from rnnforecast.training.trained import TrainedEstimator, for_answers

__all__ = ["Job", "NeuralForecaster", "first_effect"]

_CALIBRATION_WINDOWS = 4096
_EFFECT_ROWS = 100_000
_CHUNK_NUMBERS = 1 << 22  # in one pass of a network: bounds the memory of a forecast
_MOST_AT_ONCE = 512  # series and origins


@dataclass
class Job:
    """One training, and the windows whose errors calibrate the intervals."""

    learner: Learner
    held: WindowIndex
    # of a network for these errors, where the others see these rows, and the scale without them
    calibrator: Learner | None = None
    calibrator_scale: Any = None


@estimator
class NeuralForecaster(TrainedEstimator, BaseForecaster):
    """Base of the forecasters that train networks.

    A subclass chooses its sizes from the rows in :meth:`_choose`, says what to train on in
    :meth:`_job`, and what one network forecasts in :meth:`_blocks`.

    Parameters
    ----------
    loss : {"mae", "mse", "huber"}, default "mae"
        Used where ``quantiles`` and ``output`` are None.
    quantiles : sequence of float, optional
        Levels to train on the pinball loss; the median is added. They cannot cross. None: intervals
        are conformal.
    output : rnnforecast.outputs.Output, optional
        What the network's numbers mean, in place of ``loss`` and ``quantiles``.
    max_epochs : int, default 30
        An epoch is one pass over the training windows, or 100 batches if that is less.
    batch_size : int, optional
        Windows of a step. None: a thousandth of the training windows, at least 32 and at most 128.
    validation_fraction : float, default 0.1
        Share of the rows of each series, its last ones, that no weight is trained on (at least one
        horizon; none where a series is too short for that). They stop the training early, and the
        intervals come from the errors on them: where training stopped early these are a little
        small, as the weights were chosen on the same rows.
    aggregate : {"median", "mean"}, default "median"
        How the members' points or quantiles are averaged.
    warm_start : bool, default False
        ``fit`` goes on from the weights of the fit before it.

    Attributes
    ----------
    lookback_ : int
        Given or chosen.
    n_untrained_ : int
        Series too short to train on: they are forecast like the others.
    conformal_ : ConformalErrors
        Errors at rolling origins over the validation rows (over the training rows where there are
        none).
    scale_ : Scale
        Location and scale of every series and covariate.
    output_ : Output
        What the network's numbers mean.
    """

    lookback: int | None = checked(None, check_int, none=True)
    loss: str = checked("mae", check_choice, choices=LOSSES)
    quantiles: Any = None
    output: Any = None
    aggregate: str = checked("median", check_choice, choices=AGGREGATES)
    warm_start: bool = checked(False, check_bool)

    if TYPE_CHECKING:  # fitted, and so no parameters
        output_: Output = field(init=False)
        conformal_: ConformalErrors = field(init=False)
        scale_: Scale = field(init=False)

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    def _choose(self, panel: Panel) -> dict[str, Any]:
        """Fitted attributes chosen from the rows before training; ``partial_fit`` keeps them."""

    @abstractmethod
    def _job(self, panel: Panel) -> Job:
        """What to train, by the choices made; may set fitted attributes that depend on the rows."""

    @abstractmethod
    def _blocks(self, member, history, series, origins, known) -> Iterator[Forecast]:
        """Forecasts of ``networks_[member]`` on the CPU, ``horizon`` steps at a time, each as if
        the ones before had been observed; ``known: (k, n_steps, n_known)`` has the steps ahead. Of
        logarithms where ``scale_`` has those.
        """

    @abstractmethod
    def _numbers_a_forecast(self, network: Any) -> int:
        """Numbers that one forecast needs at once, roughly: bounds how many are made together."""

    def _to_go_on(self, network: Any, panel: Panel) -> Any:
        """A trained network, ready to train further on a panel that may have more series."""
        return network

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)
        if self.output is not None and not isinstance(self.output, Output):
            raise DataError(
                f"{owner}: output must be an rnnforecast.outputs.Output or None. Got "
                f"{self.output!r}"
            )

    def _held_rows(self, panel: Panel, least: Any) -> np.ndarray:
        """Rows at the end of each series that no weight is trained on, see ``validation_fraction``;
        ``least`` rows stay before them.
        """
        wanted = np.ceil(self.validation_fraction * panel.lengths).astype(np.int64)
        held = np.minimum(np.maximum(wanted, self.horizon), panel.lengths - least)
        held = np.where((held >= self.horizon) & (self.validation_fraction > 0), held, 0)
        # without an observed row their loss would be zero, the best there is
        seen = panel.observed(panel.lengths - held, panel.lengths).any(1)
        return np.where(seen, held, 0)

    def _too_short(self, panel: Panel, least: int) -> DataError:
        longest = int(np.argmax(panel.lengths))
        n = int(panel.lengths[longest])
        rows = "1 row (n_samples=1)" if n == 1 else f"{n} rows"
        return DataError(
            f"{type(self).__name__}: {panel.label(longest)} has {rows}; a row to look back on and "
            f"horizon {self.horizon} need at least {least}: use a smaller horizon, or more rows"
        )

    def _make_output(self) -> Output:
        if self.output is not None:
            return copy.deepcopy(self.output)
        return PointOutput(self.loss) if self.quantiles is None else QuantileOutput(self.quantiles)

    def _shape(self, panel: Panel, output: Output, width: int, n_more: int) -> dict[str, Any]:
        """What every network's shape depends on; ``n_more`` static numbers stand beside columns."""
        levels = {role: panel.levels(role) for role in ("past", "known", "static")}
        levels["static"] += (0,) * n_more
        return {
            "n_targets": panel.targets.shape[1],
            **levels,
            "horizon": self.horizon,
            "n_params": output.n_params,
            "cell": self.cell,
            "hidden_size": width,
            "dropout": self.dropout,
        }

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        return {"scale_": self.scale_.on(history) if fresh else self.scale_.following(history)}

    def _units(self, series: np.ndarray) -> tuple[Tensor, Tensor]:
        """Location and scale of the targets of some series, (k, 1, n_targets) each."""
        loc, scale = self.scale_.target_loc[series], self.scale_.target_scale[series]
        return torch.as_tensor(loc)[:, None], torch.as_tensor(scale)[:, None]

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        warm = self.networks_ if self.warm_start and "networks_" in vars(self) else []
        self.__dict__.update(self._choose(panel))
        return self._trained(warm)

    def _trained(self, warm: list[Any]) -> dict[str, Any]:
        """Train every member on ``panel_``: all fitted attributes. It changes self, a copy."""
        job = self._job(self.panel_)
        self.__dict__.update(self._train(job.learner, warm))
        self.__dict__.update(self._follow(self.panel_, fresh=False))
        fitted = _fitted(self)
        if job.calibrator is not None:
            self.networks_ = [member.network.eval() for member in job.calibrator.fit()]
            self.scale_ = job.calibrator_scale
        fitted["conformal_"] = self._calibrate(self.panel_, job.held)
        fitted["networks_"] = list(map(for_answers, fitted["networks_"]))
        return fitted

    def _calibrate(self, panel: Panel, windows: WindowIndex) -> ConformalErrors:
        """Errors of the forecast at rolling origins, over the scale of each series."""
        series, origins = windows[windows.spread(_CALIBRATION_WINDOWS)]
        rows = (panel.indptr[series] + origins)[:, None] + np.arange(self.horizon)
        forecast = self._average(panel, series, origins, self.horizon, panel.known[rows])
        loc, scale = self._units(series)
        truth = self.scale_.targets(panel.targets[rows], series)
        return ConformalErrors(truth - ((forecast.point - loc) / scale).numpy())

    def partial_fit(self, X: Any, y: Any = None) -> NeuralForecaster:
        """Append new rows to the history and train one epoch further on all of it.

        Parameters
        ----------
        X, y
            As in ``update``; as in ``fit`` the first time.

        Returns
        -------
        self
        """
        self._check_params()
        if "panel_" not in vars(self):
            first = clone(self).set_params(max_epochs=1).fit(X, y)  # keeps own parameters as set
            self.__dict__.update(_fitted(first))
            return self
        panel = self._extended(X, y)
        view = self._at(panel)
        view.__dict__.update({"max_epochs": 1, "early_stopping": False})
        fitted = view._trained([self._to_go_on(network, panel) for network in self.networks_])
        # without what the training kept beside the rows
        self.__dict__.update({**fitted, "panel_": replace(panel)})
        return self

    # -- forecasts ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def _average(self, history, series, origins, n_steps, known) -> Forecast:
        """The members' forecasts averaged, arguments as of ``_forecast``."""
        members = []
        for member, network in enumerate(self.networks_):
            each = self._numbers_a_forecast(network)
            size, parts = min(max(_CHUNK_NUMBERS // each, 16), _MOST_AT_ONCE), []
            for start in range(0, max(len(series), 1), size):
                some = slice(start, start + size)
                blocks = self._blocks(member, history, series[some], origins[some], known[some])
                parts.append(Forecast.joined(list(islice(blocks, -(-n_steps // self.horizon))), 1))
            members.append(Forecast.joined(parts).widened(self.horizon))
        return Forecast.averaged(members, self.aggregate)

    def _forecast(self, history, series, origins, n_steps, known):
        forecast = self._average(history, series, origins, n_steps, known)
        forecast = self.output_.calibrated(forecast, self.conformal_, self._units(series)[1])
        if not self.scale_.log:
            return forecast
        one = torch.ones_like(forecast.median)
        return TransformedForecast(forecast, 0 * one, one, _exp)

    def _describe(self) -> list[str]:
        best = f"epoch {self.histories_[0].best_epoch} of {self.n_epochs_}"
        members = [f"{len(self.networks_)} members"] if len(self.networks_) > 1 else []
        return [*super()._describe(), *members, best]


@torch.no_grad()
def first_effect(network: Any, panel: Panel, scale: Scale, stops: np.ndarray, lag: int) -> None:
    """Effect of known covariates to begin with: least squares of seasonal differences on those of
    the covariates, slightly shrunk, over the first ``stops[i]`` rows of each series.
    """
    if not network.spec.known:
        return
    owner = np.repeat(np.arange(panel.n_series), panel.lengths)
    own = np.arange(len(owner)) - panel.indptr[owner]
    later = np.flatnonzero((own >= lag) & (own < stops[owner]))
    later = later[:: len(later) // _EFFECT_ROWS + 1]

    def difference(values: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return values(later) - values(later - lag)

    numbers = network.effect.encoder.numbers
    dx = np.nan_to_num(difference(lambda rows: scale.known(panel.known[rows])[:, numbers]))
    dz = difference(lambda rows: scale.targets(panel.targets[rows, None], owner[rows])[:, 0])
    weight = network.effect.linear.weight
    for target, change in enumerate(dz.T):
        seen = ~np.isnan(change)
        gram = dx[seen].T @ dx[seen] + 1e-3 * max(seen.sum(), 1) * np.eye(dx.shape[1])
        found = np.linalg.solve(gram, dx[seen].T @ change[seen])
        weight[target, : len(found)] = torch.as_tensor(found).to(weight)


def _fitted(forecaster: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(forecaster).items() if name.endswith("_")}


def _exp(z: Tensor) -> Tensor:
    return torch.exp(z.clamp(max=700.0))  # e^700 is the last before infinity
