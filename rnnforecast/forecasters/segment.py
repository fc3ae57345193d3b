"""The segment-wise recurrent forecaster of Lin et al. 2023 ("SegRNN")."""

from __future__ import annotations

from typing import Any

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.forecasters._plan import Plan
from rnnforecast.forecasters.neural import NeuralForecaster
from rnnforecast.nn import cell_class
from rnnforecast.nn.segment import SegmentNetwork, SegmentSpec
from rnnforecast.outputs import Output

__all__ = ["SegmentRNNForecaster", "choose_long_lookback", "choose_long_segment"]

# name -> what is taken off a window
_SHIFTS = {"last": "last", "window": "mean", "series": "none", None: "none"}
_SEASONS = 30
_LEAST_LOOKBACK, _MOST_LOOKBACK = 24, 720
_MOST_SEGMENT = 48  # Lin et al. 2023, section 4.1
_LEAST_SEGMENTS = 4


def choose_long_lookback(shortest: int, horizon: int, season: int) -> int:
    """Rows that a window of segments looks back on, where the user names none.

    Thirty seasons or two horizons, whichever is longer, between 24 and 720 steps, and never more
    than half of what the shortest series has left beside one horizon.

    Parameters
    ----------
    shortest : int
        Rows of the shortest series.
    horizon, season : int

    Returns
    -------
    int

    Examples
    --------
    >>> choose_long_lookback(10_000, 96, 24), choose_long_lookback(400, 96, 24)
    (720, 152)
    """
    wanted = max(_SEASONS * season if season > 1 else 0, 2 * horizon, _LEAST_LOOKBACK)
    return max(min(wanted, _MOST_LOOKBACK, (shortest - horizon) // 2), 1)


def choose_long_segment(season: int, lookback: int) -> int:
    """Steps that are folded into one segment, where the user names none.

    The season, or the longest whole part of it (a half, a third, ...), that has at most 48 steps
    and fits four times into the look-back; without a season, an eighth of the look-back.

    Parameters
    ----------
    season, lookback : int

    Returns
    -------
    int

    Examples
    --------
    >>> [choose_long_segment(season, 720) for season in (24, 96, 144, 7, 1)]
    [24, 48, 48, 7, 48]
    """
    if season == 1:
        return min(max(lookback // (2 * _LEAST_SEGMENTS), 1), _MOST_SEGMENT)
    most = max(min(_MOST_SEGMENT, lookback // _LEAST_SEGMENTS), 1)
    return max(n for n in range(1, most + 1) if season % n == 0)


class SegmentRNNForecaster(NeuralForecaster):
    """Recurrent network over segments of a long look-back (Lin et al. 2023, "SegRNN").

    Targets are samples of their own with shared weights, told apart by an embedding. Each window is
    taken relative to its last value, its segments are embedded and read by one recurrent layer, and
    all segments of the horizon are decoded at once, each by one step of the same layer from the
    last state.

    Known covariates act on the targets of their own step, as in a regression (see
    :class:`~rnnforecast.nn.WindowNetwork`); past covariates of a segment join its embedding, static
    ones the decoder's.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
    lookback : int, optional
        Rows that a forecast reads. None: thirty seasons or two horizons, whichever is longer,
        between 24 and 720, and at most half of what the shortest series has beside one horizon.
    target, known, static : str or list of str, optional
        Columns of X: targets, covariates known in the future, constants of each series. Without
        ``target`` (and without y) every column left over is a target.
    series_id, time : str, optional
        Columns that name the series and the time stamp, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.
    cell : {"gru", "lstm", "rnn"}, default "gru"
    hidden_size : int, default 64
        Units of the recurrent layer; even numbers share the embedding equally.
    segment : int, optional
        Steps folded into one step of the network. None: the season, or the longest whole part of
        it, that has at most 48 steps and fits four times into the look-back; without a season, an
        eighth of the look-back.
    dropout : float, default 0.15
        Share of decoded units dropped in training, in [0, 1).
    loss : {"mae", "mse", "huber"}, default "mae"
        Used where ``quantiles`` is None.
    quantiles : sequence of float, optional
        Levels to train on the pinball loss; the median is added. They cannot cross. None: intervals
        are split-conformal.
    scaler : {"last", "window", "series", None}, default "last"
        "series": each series by its mean and deviation over the rows of fit. "last": besides, each
        window less its last value (Lin et al. 2023, eq. 3), from which the forecast starts; without
        a season it starts between last value and mean, where it errs least. "window": instead, each
        window by its own mean and deviation (reversible instance normalisation). None: values as
        they are.
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation. It is read by the rules for look-back and segment alone.
    max_epochs : int, default 30
        An epoch is one pass over the training windows, or 100 batches if that is less.
    batch_size : int, default 32
        Windows of all targets.
    lr : float, default 4e-3
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
        Of the recurrent layer's products in training, see :class:`~rnnforecast.DeepRNNForecaster`;
        an LSTM stays float32.
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    warm_start : bool, default False
        ``fit`` goes on from the weights of the fit before it.
    n_jobs : int, optional
        Members trained at the same time, in threads; None: as many as torch has threads. The result
        does not depend on it.
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    lookback_, seasonality_, segment_ : int
        Given or chosen.
    history_, histories_, network_, networks_, n_epochs_, conformal_, panel_, \
roles_, target_names_, cutoff_, n_features_in_, feature_names_in_
        As of :class:`~rnnforecast.DeepRNNForecaster`.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import SegmentRNNForecaster
    >>> index = pd.date_range("2024-01-01", periods=400, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(400) * np.pi / 12)}, index=index)
    >>> fc = SegmentRNNForecaster(horizon=24, hidden_size=8, max_epochs=2, random_state=0).fit(df)
    >>> fc.lookback_, fc.segment_
    (188, 24)
    >>> fc.forecast().shape
    (24, 1)
    """

    _segment_rule = staticmethod(choose_long_segment)

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
        cell: str = "gru",
        hidden_size: int = 64,
        segment: int | None = None,
        dropout: float = 0.15,
        loss: str = "mae",
        quantiles: Any = None,
        scaler: str | None = "last",
        seasonality: int | None = None,
        max_epochs: int = 30,
        batch_size: int = 32,
        lr: float = 4e-3,
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
        self.segment = segment
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

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "segment", self.segment, none=True)
        check_int(owner, "hidden_size", self.hidden_size)
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        cell_class(self.cell, owner)
        check_choice(owner, "scaler", self.scaler, _SHIFTS)

    # -- hooks -------------------------------------------------------------------------------------

    def _plan(self, panel: Panel, lookback: int | None, seasonality: int | None) -> Plan:
        season = choose_seasonality(panel) if seasonality is None else seasonality
        if lookback is None:
            lookback = choose_long_lookback(int(panel.lengths.min()), self.horizon, season)
        return super()._plan(panel, lookback, season)

    def _chosen(self, plan: Plan) -> dict[str, Any]:
        return {"segment_": self._segment(plan)}

    def _network(self, panel: Panel, plan: Plan, output: Output) -> SegmentNetwork:
        return SegmentNetwork(
            SegmentSpec(
                n_targets=panel.targets.shape[1],
                n_past=panel.past.shape[1],
                n_known=panel.known.shape[1],
                n_static=plan.n_static(panel),
                lookback=plan.lookback,
                horizon=self.horizon,
                n_params=output.n_params,
                cell=self.cell,
                hidden_size=self.hidden_size,
                dropout=self.dropout,
                shift=_SHIFTS[self.scaler],
                segment=self._segment(plan),
                pull=self.scaler == "last" and plan.season == 1,
            )
        )
