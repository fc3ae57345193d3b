"""Deep recurrent forecasters: one general class, and the named ones in a few lines each."""

from __future__ import annotations

import copy
from types import FunctionType
from typing import Any

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
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import _training
from rnnforecast.forecasters._model import NetworkModel
from rnnforecast.forecasters._plan import make_plan
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.conformal import ConformalErrors
from rnnforecast.nn import CELLS, ForecastNetwork
from rnnforecast.outputs import LOSSES
from rnnforecast.training import OPTIMIZERS, SCHEDULES, History

__all__ = [
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
]

_SCALERS = ("window", "series", None)


class DeepRNNForecaster(BaseForecaster):
    """Stacked recurrent network that forecasts all steps of the horizon at once.

    One global model is trained over all series of a panel. The look-back window is normalised, read
    by recurrent layers, and decoded into deviations from an anchor: a learnt mixture of the last
    value, the mean and the last season of the window, so that the untrained network already is the
    best of these naive forecasts.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
    lookback : int, optional
        Rows that a forecast reads. None: seven seasons or two horizons, whichever is longer,
        between 24 and 336, and at most half of what the shortest series has beside one horizon.
    target, known, static : str or list of str, optional
        Columns of X: targets, covariates known in the future, constants of each series. Without
        ``target`` (and without y) every column left over is a target.
    series_id, time : str, optional
        Columns that name the series and the time stamp, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.
    cell : {"rnn", "lstm", "gru"} or any registered name, default "lstm"
    hidden_size : int, default 32
        Units of each layer and direction.
    n_layers : int, default 2
    bidirectional : bool, default False
        Read the look-back in both directions.
    residual : bool, default False
        Add each upper layer's input to its output.
    dropout : float, default 0.0
        Share of hidden units dropped between layers, in [0, 1).
    loss : {"mae", "mse", "huber"}, default "mae"
        Used where ``quantiles`` is None.
    quantiles : sequence of float, optional
        Levels to train on the pinball loss; the median is added. They cannot cross. None: intervals
        are split-conformal.
    scaler : {"window", "series", None}, default "window"
        "series": each series by its mean and deviation over the rows of fit. "window": besides,
        each window by its own. None: values as they are.
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation.
    max_epochs : int, default 30
        An epoch is one pass over the training windows, or 100 batches if that is less.
    batch_size : int, default 32
    lr : float, default 3e-3
    lr_schedule : {"cosine", "constant", "linear", "step"}, default "cosine"
        Over ``max_epochs``; "cosine" has a short warm-up.
    optimizer : {"adam", "adamw", "rmsprop", "sgd"}, default "adam"
    weight_decay : float, default 0.0
        L2 penalty.
    gradient_clip : float or None, default 1.0
        Largest norm of the gradient.
    early_stopping : bool, default True
        Stop after ``patience`` epochs without a better loss on the validation rows, and keep the
        best weights.
    validation_fraction : float, default 0.1
        Share of the rows of each series, its last ones, that no weight is trained on (at least one
        horizon; none where a series is too short for that). They stop the training early and
        calibrate intervals.
    patience : int, default 8
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    warm_start : bool, default False
        ``fit`` goes on from the weights of the fit before it.
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    lookback_, seasonality_ : int
        Given or chosen.
    history_ : History
        Losses, gradient norms and learning rates by epoch; ``history_.frame()``.
    network_ : ForecastNetwork
        The torch module.
    n_epochs_ : int
        Epochs trained.
    conformal_ : ConformalErrors
        Errors at rolling origins over the validation rows (over the training rows where there are
        none).
    panel_, roles_, target_names_, cutoff_, n_features_in_, feature_names_in_
        As of every forecaster.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepRNNForecaster
    >>> index = pd.date_range("2024-01-01", periods=200, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(200) * np.pi / 12)}, index=index)
    >>> fc = DeepRNNForecaster(horizon=3, cell="gru", max_epochs=2, random_state=0).fit(df)
    >>> fc.lookback_, fc.seasonality_
    (98, 24)
    >>> forecast = fc.forecast()
    >>> forecast.index[0], forecast.shape
    (Timestamp('2024-01-09 08:00:00'), (3, 1))
    """

    _cell: str | None = None  # a named forecaster's only cell
    _both: bool | None = None  # its only directions

    def __init__(
        self,
        *,
        horizon: int = 1,
        lookback: int | None = None,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        cell: str = "lstm",
        hidden_size: int = 32,
        n_layers: int = 2,
        bidirectional: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        loss: str = "mae",
        quantiles: Any = None,
        scaler: str | None = "window",
        seasonality: int | None = None,
        max_epochs: int = 30,
        batch_size: int = 32,
        lr: float = 3e-3,
        lr_schedule: str = "cosine",
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        gradient_clip: float | None = 1.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 8,
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ):
        self.horizon = horizon
        self.lookback = lookback
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq
        self.cell = cell
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.bidirectional = bidirectional
        self.residual = residual
        self.dropout = dropout
        self.loss = loss
        self.quantiles = quantiles
        self.scaler = scaler
        self.seasonality = seasonality
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("lookback", "seasonality"):
            check_int(owner, name, getattr(self, name), none=True)
        for name in ("bidirectional", "residual", "early_stopping", "warm_start"):
            check_bool(owner, name, getattr(self, name))
        for name in ("hidden_size", "n_layers", "max_epochs", "batch_size", "patience"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        check_real(owner, "weight_decay", self.weight_decay, 0, closed="low")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        for name, choices in (
            ("cell", CELLS),
            ("loss", LOSSES),
            ("scaler", _SCALERS),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)
        fixed = (("cell", self._cell), ("bidirectional", self._both))
        for name, only in fixed:
            if only is not None and getattr(self, name) != only:
                raise DataError(
                    f"{owner}: {name} must be {only!r}. Got {getattr(self, name)!r}: use "
                    f"DeepRNNForecaster to choose it"
                )

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner = type(self).__name__
        plan = make_plan(
            owner, panel, self.horizon, self.lookback, self.seasonality, self.validation_fraction
        )
        warm = self.network_ if self.warm_start and hasattr(self, "network_") else None
        run = _training.prepare(self, panel, plan, warm)
        history = run.fit(self.max_epochs, self.early_stopping, self.verbose)
        return {
            "lookback_": plan.lookback,
            "seasonality_": plan.season,
            **self._finished(run, history),
        }

    @staticmethod
    def _finished(run: _training.Run, history: History) -> dict[str, Any]:
        return {
            "history_": history,
            "n_epochs_": len(history),
            "conformal_": ConformalErrors(run.calibrate(), run.units.target_scale),
            "model_": run.model(),
        }

    def partial_fit(self, X: Any, y: Any = None) -> DeepRNNForecaster:
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
        plan = make_plan(
            type(self).__name__,
            panel,
            self.horizon,
            self.lookback_,
            self.seasonality_,
            self.validation_fraction,
        )
        run = _training.prepare(self, panel, plan, self.network_, self.model_.units)
        history = run.fit(1, False, self.verbose)
        self.__dict__.update({"panel_": panel, **self._finished(run, history)})
        return self

    # -- hooks of the contract ---------------------------------------------------------------------

    @property
    def network_(self) -> ForecastNetwork:
        """The trained torch module."""
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no network_ before fit")
        return self.model_.network

    def _predict_future(self, series, n_steps, known):
        return self._point(self.model_.future(self.panel_, series, n_steps, known))

    def _predict_in_sample(self, series, positions, known):
        return self._point(self.model_.in_sample(self.panel_, series, positions, known))

    def _point(self, values: np.ndarray) -> np.ndarray:
        return self.model_.output.point(torch.as_tensor(values)).numpy()

    def _quantiles_future(self, series, n_steps, known, levels):
        values = self.model_.future(self.panel_, series, n_steps, known)
        if self.model_.output.n_params == 1:
            return self.conformal_.quantiles(self._point(values), series, levels)
        return self._interpolate(values, levels)

    def _quantiles_in_sample(self, series, positions, known, levels):
        values = self.model_.in_sample(self.panel_, series, positions, known)
        if self.model_.output.n_params == 1:
            point = self._point(values)[:, None]
            return self.conformal_.quantiles(point, series, levels)[:, 0]
        return self._interpolate(values, levels)

    def _interpolate(self, values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """Quantiles at ``levels`` from those trained, linear between neighbours."""
        trained = np.asarray(self.model_.output.levels)
        if levels[0] < trained[0] - 1e-9 or levels[-1] > trained[-1] + 1e-9:
            asked = [round(level, 10) for level in levels]
            raise DataError(
                f"{type(self).__name__}: quantiles {asked} reach beyond the trained ones, "
                f"{trained.tolist()}: fit with quantiles= that span them, or with "
                f"quantiles=None for conformal intervals"
            )
        right = np.clip(np.searchsorted(trained, levels), 1, len(trained) - 1)
        left = right - 1
        share = (np.asarray(levels) - trained[left]) / (trained[right] - trained[left])
        share = np.clip(share, 0.0, 1.0)
        return values[..., left] * (1 - share) + values[..., right] * share

    def _describe(self) -> list[str]:
        chosen = f"lookback={self.lookback_}, seasonality={self.seasonality_}"
        best = f"epoch {self.history_.best_epoch} of {self.n_epochs_}"
        return [*super()._describe(), chosen, best]

    def __getstate__(self):
        """Pickles hold the network on the CPU, so that a machine without a GPU can load them."""
        state = super().__getstate__().copy()
        model: NetworkModel | None = state.get("model_")
        if model is not None and model.network.head.weight.device.type != "cpu":
            network = copy.deepcopy(model.network).to("cpu")
            state["model_"] = NetworkModel(network.double(), model.output, model.units)
        return state


def _with_defaults(**defaults: Any) -> Any:
    """``DeepRNNForecaster.__init__`` with other defaults: the same explicit signature for
    scikit-learn.
    """
    base = DeepRNNForecaster.__init__
    init = FunctionType(base.__code__, base.__globals__, base.__name__, None, base.__closure__)
    init.__kwdefaults__ = {**(base.__kwdefaults__ or {}), **defaults}
    init.__annotations__ = base.__annotations__
    init.__qualname__ = base.__qualname__
    return init


class DeepLSTMForecaster(DeepRNNForecaster):
    """Stacked LSTM; see :class:`DeepRNNForecaster`, whose ``cell`` is "lstm" here.

    Examples
    --------
    >>> from rnnforecast import DeepLSTMForecaster
    >>> DeepLSTMForecaster(horizon=24).cell
    'lstm'
    """

    _cell = "lstm"
    __init__ = _with_defaults(cell="lstm")


class DeepGRUForecaster(DeepRNNForecaster):
    """Stacked GRU; see :class:`DeepRNNForecaster`, whose ``cell`` is "gru" here.

    Examples
    --------
    >>> from rnnforecast import DeepGRUForecaster
    >>> DeepGRUForecaster(horizon=24).cell
    'gru'
    """

    _cell = "gru"
    __init__ = _with_defaults(cell="gru")


class BiLSTMForecaster(DeepRNNForecaster):
    """Stacked LSTM that reads the look-back in both directions; see :class:`DeepRNNForecaster`.

    Examples
    --------
    >>> from rnnforecast import BiLSTMForecaster
    >>> BiLSTMForecaster().bidirectional
    True
    """

    _cell, _both = "lstm", True
    __init__ = _with_defaults(cell="lstm", bidirectional=True)


class BiGRUForecaster(DeepRNNForecaster):
    """Stacked GRU that reads the look-back in both directions; see :class:`DeepRNNForecaster`.

    Examples
    --------
    >>> from rnnforecast import BiGRUForecaster
    >>> BiGRUForecaster().bidirectional
    True
    """

    _cell, _both = "gru", True
    __init__ = _with_defaults(cell="gru", bidirectional=True)
