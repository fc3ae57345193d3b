"""What every forecaster with a trained network shares, whatever the network reads."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
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
    TransformedForecast,
)
from rnnforecast.parameters import as_text, check_unchanged, checked, estimator
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

# parameters of the columns and of the networks, which stay as they were while training goes on
_FIXED = """target known static freq horizon lookback seasonality segment stride scaler mode
calendar quantiles cell hidden_size n_layers dilations bidirectional residual channels
dropout""".split()
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
class NeuralForecaster(BaseForecaster):
    """Base of the forecasters that train networks.

    A subclass chooses its sizes from the rows in :meth:`_choose`, says what to train on in
    :meth:`_job`, and what one network forecasts in :meth:`_blocks`.

    Parameters
    ----------
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

    Attributes
    ----------
    lookback_ : int
        Given or chosen.
    history_ : History
        Losses, gradient norms and learning rates by epoch; ``history_.frame()``.
    histories_ : list of History
        Of every member; ``history_`` is the first.
    network_ : Module
        The torch module, of the first member.
    networks_ : list of Module
        Of every member.
    n_epochs_ : int
        Epochs trained.
    n_untrained_ : int
        Series too short to train on: they are forecast like the others.
    conformal_ : ConformalErrors
        Errors at rolling origins over the validation rows (over the training rows where there are
        none).
    scale_ : Scale
        Location and scale of every series and covariate.
    output_ : Output
        What the network's numbers mean.
    fixed_params_ : dict of str
        Parameters in ``fit``, as text, that ``partial_fit`` cannot change.
    """

    lookback: int | None = checked(None, check_int, none=True)
    cell: Any = "lstm"
    dropout: float = checked(0.0, check_real, low=0, high=1, closed="low")
    loss: str = checked("mae", check_choice, choices=LOSSES)
    quantiles: Any = None
    output: Any = None
    max_epochs: int = checked(30, check_int)
    batch_size: int | None = checked(None, check_int, none=True)
    lr: float = checked(3e-3, check_real, low=0, closed="neither")
    lr_schedule: str = checked("cosine", check_choice, choices=SCHEDULES)
    optimizer: str = checked("adam", check_choice, choices=OPTIMIZERS)
    weight_decay: float = checked(0.0, check_real, low=0, closed="low")
    gradient_clip: float | None = checked(1.0, check_real, low=0, closed="high", none=True)
    ema_decay: float | None = checked(0.99, check_real, low=0, high=1, closed="low", none=True)
    early_stopping: bool = checked(True, check_bool)
    validation_fraction: float = checked(0.1, check_real, low=0, high=1, closed="low")
    patience: int = checked(8, check_int)
    n_members: int = checked(1, check_int)
    aggregate: str = checked("median", check_choice, choices=AGGREGATES)
    precision: str = checked("float32", check_choice, choices=PRECISIONS)
    device: str = "auto"
    random_state: Any = None
    warm_start: bool = checked(False, check_bool)
    n_jobs: int | None = checked(None, check_int, minimum=-1, none=True)
    verbose: int = 0

    if TYPE_CHECKING:  # fitted, and so no parameters
        networks_: list[Any] = field(init=False)
        histories_: list[History] = field(init=False)
        history_: History = field(init=False)
        n_epochs_: int = field(init=False)
        output_: Output = field(init=False)
        conformal_: ConformalErrors = field(init=False)
        scale_: Scale = field(init=False)
        fixed_params_: dict[str, str] = field(init=False)

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
        cell_class(self.cell, owner)
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)
        if self.output is not None and not isinstance(self.output, Output):
            raise DataError(
                f"{owner}: output must be an rnnforecast.outputs.Output or None. Got "
                f"{self.output!r}"
            )
        if self.n_jobs == 0:
            raise DataError(f"{owner}: n_jobs must be -1, positive or None. Got 0")

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

    def _learner(self, **parts: Any) -> Learner:
        """A learner with this forecaster's parameters, and what it trains on."""
        owner = type(self).__name__
        names = ("n_members", "n_jobs", "random_state", "verbose")
        return Learner(
            settings=Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)}),
            patience=self.patience if self.early_stopping else None,
            precision=resolve_precision(owner, self.precision, parts["device"]),
            name=owner,
            **{name: getattr(self, name) for name in names},
            **parts,
        )

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        warm = self.networks_ if self.warm_start and "networks_" in vars(self) else []
        self.__dict__.update(self._choose(panel))
        self.fixed_params_ = as_text(self, _FIXED)
        return self._trained(warm)

    @torch.inference_mode(False)  # nor may what is trained on be made in the caller's
    @torch.enable_grad()
    def _trained(self, warm: list[Any]) -> dict[str, Any]:
        """Train every member on ``panel_``: all fitted attributes. It changes self, a copy."""
        job = self._job(self.panel_)
        networks, self.histories_ = map(list, zip(*job.learner.fit(warm), strict=True))
        self.history_, self.n_epochs_ = self.histories_[0], len(self.histories_[0])
        self.networks_ = [network.eval().requires_grad_(False) for network in networks]
        self.__dict__.update(self._follow(self.panel_, fresh=False))
        fitted = _fitted(self)
        if job.calibrator is not None:
            self.networks_ = [member.network.eval() for member in job.calibrator.fit()]
            self.scale_ = job.calibrator_scale
        fitted["conformal_"] = self._calibrate(self.panel_, job.held)
        if job.learner.device.type == "cpu":
            # a row's forecast is then the same to 1e-12 whatever rows stand beside it in a batch,
            # which float32 matrix products do not give
            for network in fitted["networks_"]:
                network.double()
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
        """Append new rows to the history and train one epoch further on all of it, with the columns
        and networks of ``fit``: if their parameters were changed since, that is a DataError.

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
        check_unchanged(self, self.fixed_params_)
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

    @property
    def network_(self) -> Any:
        """The trained torch module of the first member."""
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


def _fitted(forecaster: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(forecaster).items() if name.endswith("_")}


def _exp(z: Tensor) -> Tensor:
    return torch.exp(z.clamp(max=700.0))  # e^700 is the last before infinity


def _on_cpu(network: Any) -> Any:
    if next(network.parameters()).device.type == "cpu":
        return network
    return copy.deepcopy(network).to("cpu").double()
