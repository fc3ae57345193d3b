"""What every forecaster with a trained network shares, whatever the network reads."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone

from rnnforecast._validation import (
    check_bool,
    check_choice,
    check_int,
    check_quantiles,
    check_real,
)
from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.nn.cells import cell_class
from rnnforecast.outputs import (
    AGGREGATES,
    LOSSES,
    ConformalErrors,
    Forecast,
    Output,
    PointOutput,
    QuantileOutput,
)
from rnnforecast.parameters import estimator
from rnnforecast.training import (
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    History,
    Learner,
    Settings,
    resolve_precision,
)

__all__ = ["Job", "NeuralForecaster", "first_effect"]

_CALIBRATION_WINDOWS = 4096
_EFFECT_ROWS = 100_000


@dataclass
class Job:
    """One training: what the learner needs, and what the forecaster keeps."""

    learner: Learner
    fitted: dict[str, Any]  # attributes that are known before training
    held: WindowIndex  # windows whose errors calibrate the intervals
    calibrator: Learner | None = None  # of a network for that, where the others see these rows


@estimator
class NeuralForecaster(BaseForecaster):
    """Base of the forecasters that train networks.

    A subclass says what to train on in :meth:`_job`, and what one network forecasts in
    :meth:`_network_says`.

    Parameters
    ----------
    lookback : int, optional
        Rows that a forecast may look back on.
    cell : {"rnn", "lstm", "gru", "lstm_peephole"} or a subclass of Cell, default "lstm"
        Recurrent cell; see :mod:`rnnforecast.nn.cells` for registering one.
    dropout : float, default 0.0
        Share of hidden units dropped between layers in training, in [0, 1).
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
    lr : float, default 3e-3
    lr_schedule : {"cosine", "constant", "linear", "step"}, default "cosine"
        Over ``max_epochs``; "cosine" has a short warm-up.
    optimizer : {"adam", "adamw", "rmsprop", "sgd"}, default "adam"
    weight_decay : float, default 0.0
        L2 penalty.
    gradient_clip : float or None, default 1.0
        Largest norm of the gradient.
    ema_decay : float or None, default 0.99
        Memory of the moving average of the weights that is validated and kept; None keeps the
        weights themselves.
    early_stopping : bool, default True
        Stop after ``patience`` epochs without a better loss on the validation rows, and keep the
        best weights.
    validation_fraction : float, default 0.1
        Share of the rows of each series, its last ones, that no weight is trained on (at least one
        horizon; none where a series is too short for that). They stop the training early, and the
        intervals come from the errors on them: where training stopped early these are a little
        small, as the weights were chosen on the same rows.
    patience : int, default 8
    n_members : int, default 1
        Networks trained from other random starts and in other orders of the windows, whose
        forecasts are averaged; the first is the one that ``n_members=1`` trains.
    aggregate : {"median", "mean"}, default "median"
        How the members' points or quantiles are averaged.
    precision : {"float32", "bf16"}, default "float32"
        Of the recurrent layers' products in training; everything else stays float32. "bf16" wants a
        CPU with AVX512-BF16 or AMX, or a CUDA device, and trains by torch's own layers: 1.2 to 1.9
        times faster than those in float32 for the LSTM, slower for small GRU and vanilla layers,
        and slower than this package's compiled kernels, which are float32 (LSTM, 64 units, batch
        32, one Zen 4 core: 7.0 against 4.3 ms). Not tested on a GPU.
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    warm_start : bool, default False
        ``fit`` goes on from the weights of the fit before it.
    n_jobs : int, optional
        Members trained at the same time, in threads; None: as many as torch has threads for. The
        result does not depend on it.
    verbose : int, default 0
        1 shows a progress bar.
    """

    lookback: int | None = None
    cell: Any = "lstm"
    dropout: float = 0.0
    loss: str = "mae"
    quantiles: Any = None
    output: Any = None
    max_epochs: int = 30
    batch_size: int | None = None
    lr: float = 3e-3
    lr_schedule: str = "cosine"
    optimizer: str = "adam"
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    ema_decay: float | None = 0.99
    early_stopping: bool = True
    validation_fraction: float = 0.1
    patience: int = 8
    n_members: int = 1
    aggregate: str = "median"
    precision: str = "float32"
    device: str = "auto"
    random_state: Any = None
    warm_start: bool = False
    n_jobs: int | None = None
    verbose: int = 0

    if TYPE_CHECKING:  # fitted, and so no parameters
        networks_: list[Any] = field(init=False)
        histories_: list[History] = field(init=False)
        n_epochs_: int = field(init=False)
        output_: Output = field(init=False)
        conformal_: ConformalErrors = field(init=False)

    _losses: ClassVar[Any] = LOSSES  # names to choose from

    # -- hooks -------------------------------------------------------------------------------------

    @abstractmethod
    def _job(self, panel: Panel, goes_on: bool) -> Job:
        """What to train; ``goes_on`` keeps the choices of the fit before it."""

    @abstractmethod
    def _network_says(self, member, history, series, origins, n_steps, known) -> Forecast:
        """Forecast of ``networks_[member]``, arguments as of ``_forecast``, on the CPU."""

    @abstractmethod
    def _error_scale(self, series: np.ndarray) -> np.ndarray:
        """In which errors of some series are pooled, shape (k, n_targets)."""

    def _truth_as_forecast(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Observed values ``(k, n_steps, n_targets)`` on the scale of ``_network_says``."""
        return values

    def _in_data_units(self, forecast: Forecast, series: np.ndarray) -> Forecast:
        """A forecast on the scale of ``_network_says``, in the unit of the data."""
        return forecast

    def _to_go_on(self, network: Any, panel: Panel) -> Any:
        """A trained network, ready to train further on a panel that may have more series."""
        return network

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("lookback", "batch_size"):
            check_int(owner, name, getattr(self, name), none=True)
        for name in ("early_stopping", "warm_start"):
            check_bool(owner, name, getattr(self, name))
        for name in ("max_epochs", "patience", "n_members"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        check_real(owner, "weight_decay", self.weight_decay, 0, closed="low")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        check_real(owner, "ema_decay", self.ema_decay, 0, 1, closed="low", none=True)
        for name, choices in (
            ("loss", self._losses),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
            ("aggregate", AGGREGATES),
            ("precision", PRECISIONS),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        cell_class(self.cell, owner)
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)
        if self.output is not None and not isinstance(self.output, Output):
            raise DataError(
                f"{owner}: output must be an rnnforecast.outputs.Output or None. Got "
                f"{self.output!r}"
            )
        check_int(owner, "n_jobs", self.n_jobs, minimum=-1, none=True)
        if self.n_jobs == 0:
            raise DataError(f"{owner}: n_jobs must be -1, positive or None. Got 0")

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

    def _learner(self, **parts: Any) -> Learner:
        """A learner with this forecaster's parameters, and what it trains on."""
        owner = type(self).__name__
        settings = {each.name: getattr(self, each.name) for each in fields(Settings)}
        options: dict[str, Any] = {
            "settings": Settings(**settings),
            "patience": self.patience if self.early_stopping else None,
            "precision": resolve_precision(owner, self.precision, parts["device"]),
            "name": owner,
        }
        for name in ("n_members", "n_jobs", "random_state", "verbose"):
            options[name] = getattr(self, name)
        return Learner(**options, **parts)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        warm = self.networks_ if self.warm_start and "networks_" in vars(self) else []
        return self._trained(panel, self._job(panel, goes_on=False), warm)

    def _trained(self, panel: Panel, job: Job, warm: list[Any]) -> dict[str, Any]:
        """Train every member; all fitted attributes."""
        networks, histories = map(list, zip(*job.learner.fit(warm), strict=True))
        fitted = {
            **job.fitted,
            "networks_": [network.eval().requires_grad_(False) for network in networks],
            "histories_": histories,
            "history_": histories[0],
            "n_epochs_": len(histories[0]),
        }
        view = copy.copy(self)
        view.__dict__.update({"panel_": panel}, **fitted)
        fitted.update(view._follow(panel, fresh=False))
        view.__dict__.update(fitted)
        if job.calibrator is not None:
            view.networks_ = [member.network.eval() for member in job.calibrator.fit()]
        fitted["conformal_"] = view._calibrate(panel, job.held)
        fitted["networks_"] = [_for_forecasts(network) for network in networks]
        return fitted

    def _calibrate(self, panel: Panel, windows: WindowIndex) -> ConformalErrors:
        """Errors of the forecast at rolling origins, over the scale of each series."""
        series, origins = windows[windows.spread(_CALIBRATION_WINDOWS)]
        rows = (panel.indptr[series] + origins)[:, None] + np.arange(self.horizon)
        forecast = self._average(panel, series, origins, self.horizon, panel.known[rows])
        truth = self._truth_as_forecast(panel.targets[rows], series)
        errors = truth - forecast.point.numpy()
        return ConformalErrors((errors / self._error_scale(series)[:, None]).astype(np.float64))

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
            self.__dict__.update({name: v for name, v in vars(first).items() if name.endswith("_")})
            return self
        panel = self._extended(X, y)
        view = copy.copy(self)
        view.__dict__.update({"max_epochs": 1, "early_stopping": False, "panel_": panel})
        view.__dict__.update(self._follow(panel, fresh=False))
        warm = [self._to_go_on(network, panel) for network in self.networks_]
        fitted = view._trained(panel, view._job(panel, goes_on=True), warm)
        self.__dict__.update({"panel_": panel}, **fitted)
        return self

    # -- forecasts ---------------------------------------------------------------------------------

    def _average(self, history, series, origins, n_steps, known) -> Forecast:
        """The members' forecasts, averaged."""
        says = [
            self._network_says(member, history, series, origins, n_steps, known)
            for member in range(len(self.networks_))
        ]
        return Forecast.averaged(says, self.aggregate)

    def _forecast(self, history, series, origins, n_steps, known):
        forecast = self._average(history, series, origins, n_steps, known)
        scale = torch.as_tensor(self._error_scale(series))[:, None]
        forecast = self.output_.calibrated(forecast, self.conformal_, scale)
        return self._in_data_units(forecast, series)

    @property
    def network_(self) -> Any:
        """The trained torch module of the first member."""
        if "networks_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no network_ before fit")
        return self.networks_[0]

    def _describe(self) -> list[str]:
        best = f"epoch {self.histories_[0].best_epoch} of {self.n_epochs_}"
        members = [f"{len(self.networks_)} members"] if len(self.networks_) > 1 else []
        return [*super()._describe(), *members, best]

    def __getstate__(self):
        """Pickles hold the networks on the CPU, so that a machine without a GPU can load them."""
        state = super().__getstate__().copy()
        if "networks_" in state:
            state["networks_"] = [_on_cpu(network) for network in state["networks_"]]
        return state


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


def _for_forecasts(network: Any) -> Any:
    """On a CPU a network forecasts in float64: then a row's forecast is the same to 1e-12 whatever
    rows stand beside it in a batch, which float32 matrix products do not give.
    """
    return network.double() if next(network.parameters()).device.type == "cpu" else network


def _on_cpu(network: Any) -> Any:
    if next(network.parameters()).device.type == "cpu":
        return network
    return copy.deepcopy(network).to("cpu").double()
