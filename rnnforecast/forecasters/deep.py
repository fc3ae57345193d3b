"""Deep recurrent forecasters: one general class, and the named ones in a few lines each."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_segment
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._plan import Plan
from rnnforecast.forecasters.neural import NeuralForecaster
from rnnforecast.nn import ForecastNetwork, NetworkSpec, cell_class
from rnnforecast.outputs import Output

__all__ = [
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
]

_SCALERS = ("window", "series", None)
_TRAININGS = ("windows", "dense")
_CHANNELS = ("independent", "joint")
_MANY = 100_000  # training windows


class DeepRNNForecaster(NeuralForecaster):
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
    hidden_size : int, optional
        Units of each layer and direction. None: 64 where at least 100,000 windows train, else 32.
    n_layers : int, default 2
    segment : int, optional
        Neighbouring steps of the look-back folded into one step of the network. None: a season,
        where the look-back holds two at least; else 1, step by step.
    training : {"windows", "dense"}, default "windows"
        "windows": every window is encoded by itself. "dense": a stretch of neighbouring windows is
        encoded in one pass, each reading the state that has come that far.
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
    calendar : bool, default True
        Tell the network the phase of the week and of the year at the origin of a forecast, where
        the time stamps have them and the rows show that they matter (see
        :func:`~rnnforecast.data.phases.choose_phases`; ``phases_`` has the choice).
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
        horizon; none where a series is too short for that). They stop the training early and
        calibrate intervals.
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
    lookback_, seasonality_, hidden_size_, segment_, batch_size_ : int
        Given or chosen.
    phases_ : CalendarPhases or None
        Cycles of the calendar that the network is told.
    history_ : History
        Losses, gradient norms and learning rates by epoch; ``history_.frame()``.
    histories_ : list of History
        Of every member; ``history_`` is the first.
    network_ : ForecastNetwork
        The torch module, of the first member.
    networks_ : list of ForecastNetwork
        Of every member.
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

    _segment_rule = staticmethod(choose_segment)

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
        hidden_size: int | None = None,
        n_layers: int = 2,
        segment: int | None = None,
        training: str = "windows",
        channels: str = "independent",
        bidirectional: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        loss: str = "mae",
        quantiles: Any = None,
        scaler: str | None = "window",
        seasonality: int | None = None,
        calendar: bool = True,
        max_epochs: int = 30,
        batch_size: int | None = None,
        lr: float = 3e-3,
        lr_schedule: str = "cosine",
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        gradient_clip: float | None = 1.0,
        ema_decay: float | None = 0.99,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 8,
        n_members: int = 1,
        aggregate: str = "median",
        precision: str = "float32",
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
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
        self.segment = segment
        self.training = training
        self.channels = channels
        self.bidirectional = bidirectional
        self.residual = residual
        self.dropout = dropout
        self.loss = loss
        self.quantiles = quantiles
        self.scaler = scaler
        self.seasonality = seasonality
        self.calendar = calendar
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.n_members = n_members
        self.aggregate = aggregate
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.verbose = verbose

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "segment", self.segment, none=True)
        check_int(owner, "hidden_size", self.hidden_size, none=True)
        check_int(owner, "n_layers", self.n_layers)
        for name in ("bidirectional", "residual", "calendar"):
            check_bool(owner, name, getattr(self, name))
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        cell_class(self.cell, owner)
        for name, choices in (
            ("scaler", _SCALERS),
            ("training", _TRAININGS),
            ("channels", _CHANNELS),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        fixed = (("cell", self._cell), ("bidirectional", self._both))
        for name, only in fixed:
            if only is not None and getattr(self, name) != only:
                raise DataError(
                    f"{owner}: {name} must be {only!r}. Got {getattr(self, name)!r}: use "
                    f"DeepRNNForecaster to choose it"
                )
        if self.training == "dense" and self.bidirectional:
            raise DataError(
                f"{owner}: training='dense' reads every window of a stretch in one pass, which a "
                f"bidirectional encoder cannot: use training='windows'"
            )

    # -- hooks -------------------------------------------------------------------------------------

    def _width(self, plan: Plan) -> int:
        # few windows are learnt by heart by a wider network (benchmarks/RESULTS.md)
        return self.hidden_size or plan.hidden_size or (64 if len(plan.train) >= _MANY else 32)

    def _chosen(self, plan: Plan) -> dict[str, Any]:
        return {
            "hidden_size_": self._width(plan),
            "segment_": self._segment(plan),
            "phases_": plan.phases,
        }

    def _network(self, panel: Panel, plan: Plan, output: Output) -> ForecastNetwork:
        return ForecastNetwork(
            NetworkSpec(
                n_targets=panel.targets.shape[1],
                n_past=panel.past.shape[1],
                n_known=panel.known.shape[1],
                n_static=plan.n_static(panel),
                lookback=plan.lookback,
                horizon=self.horizon,
                season=plan.season,
                n_params=output.n_params,
                cell=self.cell,
                hidden_size=self._width(plan),
                n_layers=self.n_layers,
                bidirectional=self.bidirectional,
                residual=self.residual,
                dropout=self.dropout,
                normalise=self.scaler == "window",
                segment=self._segment(plan),
                independent=self.channels == "independent" and panel.targets.shape[1] > 1,
            )
        )


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
