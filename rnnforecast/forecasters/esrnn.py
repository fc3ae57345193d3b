"""The hybrid of exponential smoothing and a recurrent network that won the M4 competition."""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import Any

import numpy as np

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.calendar import default_seasonality
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._esrnn_training import ESPlan, ESRun
from rnnforecast.forecasters._esrnn_units import measure
from rnnforecast.forecasters._plan import only_observed
from rnnforecast.forecasters._training import resolve_device, seeds_of
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.conformal import ConformalErrors
from rnnforecast.nn.esrnn import ESRNNSpec
from rnnforecast.training import OPTIMIZERS, SCHEDULES, Settings
from rnnforecast.training.source import measure_units

__all__ = ["ESRNNForecaster"]

_LOSSES = ("balanced", "relative", "scaled")
_MODES = ("auto", "multiplicative", "additive")
# rows and longest seasons of a stretch that training reads of a long series at a time
_MOST_ROWS, _MOST_SEASONS = 1024, 8
_DAYS = (24, 48, 96, 144)  # seasons of a day, whose week is the second season


class ESRNNForecaster(BaseForecaster):
    """Exponential smoothing of every series, trained jointly with one shared recurrent network.

    Each series has a level and up to two seasons of its own, smoothed with coefficients of its own
    (Smyl 2020, A hybrid method of exponential smoothing and recurrent neural networks for time
    series forecasting, Int. J. Forecast. 36(1), 75-85). A dilated residual LSTM shared by all
    series reads windows of the series less level and season, and forecasts what comes on top of
    them for all steps of the horizon at once. The gradient of the forecast's loss trains both.

    Data that are positive throughout are smoothed in logarithms, so that level and seasons
    multiply; others as they are. Rows that were not observed carry the state on. Every target of a
    series is treated as a series.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
    lookback : int, optional
        Rows of the network's input window. None: the longest season or two horizons, whichever is
        longer, between 24 and 336, and at most half the rows of the longest series.
        The smoothing always reads the whole history.
    target, known, static : str or list of str, optional
        Columns of X: targets, covariates known in the future, constants of each series. Without
        ``target`` (and without y) every column left over is a target.
    series_id, time : str, optional
        Columns that name the series and the time stamp, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.
    seasonality : int or tuple of int, optional
        One or two seasonal periods in steps, the shorter first; 1 for none. None: the first from
        the calendar, else from the autocorrelation; a day (24, 48, 96 or 144 steps) gets its week
        as a second one. A series shorter than twice a season goes without it.
    mode : {"auto", "multiplicative", "additive"}, default "auto"
        Whether level and seasons multiply. "auto": if all observed targets are positive. Later
        values that are not positive then count as the smallest one of fit.
    hidden_size : int, default 40
        Units of each layer.
    dilations : sequence of sequences of int, default ((1, 2), (7, 14))
        Dilated layers of each residual block, in positions.
    stride : int, optional
        Rows between the positions that the network reads. None: the first season, or the horizon
        without one. ``stride=1`` with dilations ((1, 4), (24, 168)) is the network of the paper
        for hourly data, at many times the cost.
    dropout : float, default 0.0
        Share of the inputs of the recurrent layers dropped in training, in [0, 1).
    loss : {"balanced", "relative", "scaled"}, default "balanced"
        Of positive data: absolute errors over the mean of forecast and truth (as sMAPE), over the
        series' seasonal naive error (as MASE), or the mean of both, each in units of what the
        seasonal naive forecast has. Additive data always take "scaled".
    tau : float, default 0.5
        Level of the pinball loss, in (0, 1); 0.5 is the absolute error.
    level_penalty : float, default 0.0
        Weight of the mean squared second difference of the level, in units of the series.
    max_epochs : int, default 6
    n_batches : int, default 50
        Batches of an epoch.
    batch_size : int, default 128
        Series of a batch; with fewer series, several phases of each.
    lr : float, default 3e-3
    lr_schedule : {"cosine", "constant", "linear", "step"}, default "cosine"
        Over ``max_epochs``; "cosine" has a short warm-up.
    optimizer : {"adam", "adamw", "rmsprop", "sgd"}, default "adam"
    weight_decay : float, default 0.0
        L2 penalty.
    gradient_clip : float or None, default 1.0
        Largest norm of the gradient.
    validation_fraction : float, default 0.1
        Share of the rows of each series, its last ones (at least one horizon; none where a series
        is too short for that), on which intervals are calibrated. One more network is trained for
        that, on the rows before them; those that forecast are trained on all rows. 0 saves it, and
        calibrates on rows that were trained on.
    n_members : int, default 3
        Networks trained from different starts; the forecast is the mean of theirs (in logarithms
        where level and seasons multiply).
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    lookback_, stride_ : int
        Given or chosen.
    seasonality_ : tuple of int
        Given or chosen; empty for none.
    mode_ : str
        "multiplicative" or "additive".
    histories_ : list of History
        Of each member: losses, gradient norms and learning rates by epoch.
    networks_ : list of ESRNN
        The torch modules.
    conformal_ : ConformalErrors
        Errors of the network trained apart at rolling origins over the validation rows (of all
        over training rows where there are none), on the additive scale.
    panel_, roles_, target_names_, cutoff_, n_features_in_, feature_names_in_
        As of every forecaster.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import ESRNNForecaster
    >>> index = pd.date_range("2024-01-01", periods=400, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(400) * np.pi / 12)}, index=index)
    >>> quick = {"max_epochs": 1, "n_batches": 5, "n_members": 1}
    >>> fc = ESRNNForecaster(horizon=3, random_state=0, **quick).fit(df)
    >>> fc.mode_, fc.seasonality_, fc.lookback_
    ('multiplicative', (24, 168), 168)
    >>> fc.forecast().shape
    (3, 1)
    """

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
        seasonality: Any = None,
        mode: str = "auto",
        hidden_size: int = 40,
        dilations: Any = ((1, 2), (7, 14)),
        stride: int | None = None,
        dropout: float = 0.0,
        loss: str = "balanced",
        tau: float = 0.5,
        level_penalty: float = 0.0,
        max_epochs: int = 6,
        n_batches: int = 50,
        batch_size: int = 128,
        lr: float = 3e-3,
        lr_schedule: str = "cosine",
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        gradient_clip: float | None = 1.0,
        validation_fraction: float = 0.1,
        n_members: int = 3,
        device: str = "auto",
        random_state: Any = None,
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
        self.seasonality = seasonality
        self.mode = mode
        self.hidden_size = hidden_size
        self.dilations = dilations
        self.stride = stride
        self.dropout = dropout
        self.loss = loss
        self.tau = tau
        self.level_penalty = level_penalty
        self.max_epochs = max_epochs
        self.n_batches = n_batches
        self.batch_size = batch_size
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.validation_fraction = validation_fraction
        self.n_members = n_members
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- parameters --------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("lookback", "stride"):
            check_int(owner, name, getattr(self, name), none=True)
        for name in ("hidden_size", "max_epochs", "n_batches", "batch_size", "n_members"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        check_real(owner, "tau", self.tau, 0, 1, closed="neither")
        for name in ("level_penalty", "weight_decay"):
            check_real(owner, name, getattr(self, name), 0, closed="low")
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        for name, choices in (
            ("mode", _MODES),
            ("loss", _LOSSES),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        self._given_periods()
        self._given_dilations()

    def _given_periods(self) -> tuple[int, ...] | None:
        """``seasonality`` as periods above 1, shortest first; None if it is to be chosen."""
        given = self.seasonality
        if given is None:
            return None
        one = isinstance(given, numbers.Integral)
        periods = [given] if one else list(given) if isinstance(given, (list, tuple)) else []
        whole = [isinstance(p, numbers.Integral) and not isinstance(p, bool) for p in periods]
        if not 1 <= len(periods) <= 2 or not all(whole) or min(periods) < 1:
            raise DataError(
                f"{type(self).__name__}: seasonality must be one or two integers >= 1, or None. "
                f"Got {given!r}"
            )
        return tuple(sorted({int(p) for p in periods if p > 1}))

    def _given_dilations(self) -> tuple[tuple[int, ...], ...]:
        try:
            blocks = tuple(tuple(block) for block in self.dilations)
        except TypeError:
            blocks = ()
        flat = [d for block in blocks for d in block]
        whole = all(isinstance(d, numbers.Integral) and int(d) >= 1 for d in flat)
        if not blocks or not all(blocks) or not whole:
            raise DataError(
                f"{type(self).__name__}: dilations must be blocks of integers >= 1, such as "
                f"((1, 2), (7, 14)). Got {self.dilations!r}"
            )
        return tuple(tuple(int(d) for d in block) for block in blocks)

    # -- fit ---------------------------------------------------------------------------------------

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner = type(self).__name__
        device = resolve_device(owner, self.device)
        log = self._multiplicative(panel)
        plan, held = self._plan(panel)
        season = plan.spec.periods[0] if plan.spec.periods else 1
        before = replace(plan, train_rows=panel.lengths - held)
        whole = ESRun(
            panel=panel,
            units=measure(panel, before.train_rows, season, log),
            covariates=measure_units(panel, per_series=False),
            plan=plan,
            settings=Settings(
                max_epochs=self.max_epochs,
                lr=self.lr,
                optimizer=self.optimizer,
                weight_decay=self.weight_decay,
                gradient_clip=self.gradient_clip,
                lr_schedule=self.lr_schedule,
            ),
            loss=self.loss,
            tau=self.tau,
            level_penalty=self.level_penalty,
            batch_size=self.batch_size,
            n_batches=self.n_batches,
            device=device,
            name=owner,
        )
        *seeds, last = seeds_of(self.random_state, self.n_members + 1)
        networks, histories = zip(*(whole.member(seed, self.verbose) for seed in seeds))
        if held.any():
            apart = replace(whole, plan=before)
            errors = apart.calibrate([apart.member(last, self.verbose)[0]])
        else:
            errors = whole.calibrate(list(networks))
        shape = (panel.n_series, panel.targets.shape[1])
        return {
            "lookback_": plan.spec.window,
            "stride_": plan.spec.stride,
            "seasonality_": plan.spec.periods,
            "mode_": "multiplicative" if log else "additive",
            "histories_": list(histories),
            "conformal_": ConformalErrors(errors.astype(np.float64), np.ones(shape)),
            "model_": whole.model(list(networks)),
        }

    def _multiplicative(self, panel: Panel) -> bool:
        if self.mode != "auto":
            lowest = float(np.nanmin(panel.targets))
            if self.mode == "multiplicative" and lowest <= 0:
                raise DataError(
                    f"{type(self).__name__}: mode='multiplicative' needs positive targets. Got "
                    f"{lowest:g}: use mode='additive' or 'auto'"
                )
            return self.mode == "multiplicative"
        return bool(np.nanmin(panel.targets) > 0)

    def _plan(self, panel: Panel) -> tuple[ESPlan, np.ndarray]:
        """Choose seasons, window and stride; and how many rows of each series calibrate."""
        owner, horizon = type(self).__name__, self.horizon
        lengths = panel.lengths
        longest = int(lengths.max())
        if longest < horizon + 2:
            rows = "1 row (n_samples=1)" if longest == 1 else f"{longest} rows"
            raise DataError(
                f"{owner}: the longest series has {rows}; horizon {horizon} needs at least "
                f"{horizon + 2}: use a smaller horizon, or more rows"
            )
        periods = self._given_periods()
        if periods is None:
            first = 1 if panel.calendar is None else default_seasonality(panel.calendar)
            if first == 1:
                first = choose_seasonality(panel)
            second = 7 * first if first in _DAYS else 1
            periods = tuple(p for p in (first, second) if p > 1)
        periods = tuple(p for p in periods if 2 * p <= longest)
        season = periods[0] if periods else 1
        lookback = self.lookback
        if lookback is None:
            wanted = max(max(periods, default=1), 2 * horizon, 24)
            lookback = max(min(wanted, 336, longest // 2), 1)
        held = np.maximum(np.ceil(self.validation_fraction * lengths).astype(np.int64), horizon)
        held = np.where((lengths - held >= 2 * horizon + 2 * season) & (held > 0), held, 0)
        if not self.validation_fraction:
            held[:] = 0
        held = only_observed(panel, held)
        # two of the longest seasons a series has, but never more than half its origins
        warm = np.full(panel.n_series, 2)
        for period in periods:
            warm = np.where(2 * period <= lengths - held, 2 * period, warm)
        warm = np.maximum(np.minimum(warm, (lengths - held - horizon) // 2), 1)
        spec = ESRNNSpec(
            n_series=panel.n_series * panel.targets.shape[1],
            n_targets=panel.targets.shape[1],
            periods=periods,
            window=lookback,
            horizon=horizon,
            stride=self.stride or (season if season > 1 else horizon),
            dilations=self._given_dilations(),
            hidden_size=self.hidden_size,
            dropout=self.dropout,
            n_known=panel.known.shape[1],
            n_past=panel.past.shape[1],
            n_static=panel.static.shape[1] + 1,
        )
        most_rows = max(_MOST_ROWS, _MOST_SEASONS * max(periods, default=1), 4 * lookback)
        return ESPlan(spec, lengths, warm, most_rows), held

    def _update_panel(self, panel: Panel) -> dict[str, Any]:
        return {"model_": self.model_.extended(self.panel_, panel)}

    # -- hooks of the contract ---------------------------------------------------------------------

    @property
    def networks_(self) -> list:
        """The trained torch modules."""
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no networks_ before fit")
        return [member.network for member in self.model_.members]

    def _predict_future(self, series, n_steps, known):
        values = self.model_.future(self.panel_, series, n_steps, known)
        return self.model_.units.back(values, series)

    def _predict_in_sample(self, series, positions, known):
        values = self.model_.in_sample(self.panel_, series, positions, known)
        return self.model_.units.back(values[:, None], series)[:, 0]

    def _quantiles_future(self, series, n_steps, known, levels):
        values = self.model_.future(self.panel_, series, n_steps, known)
        return self.model_.units.back(self.conformal_.quantiles(values, series, levels), series)

    def _quantiles_in_sample(self, series, positions, known, levels):
        values = self.model_.in_sample(self.panel_, series, positions, known)[:, None]
        spread = self.conformal_.quantiles(values, series, levels)
        return self.model_.units.back(spread, series)[:, 0]

    def _describe(self) -> list[str]:
        seasons = " and ".join(map(str, self.seasonality_)) or "none"
        chosen = f"{self.mode_}, lookback={self.lookback_}, seasons {seasons}"
        return [*super()._describe(), chosen, f"{len(self.networks_)} member(s)"]
