"""The hybrid of exponential smoothing and a recurrent network that won the M4 competition."""

from __future__ import annotations

import operator
from dataclasses import field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.neural import Job, NeuralForecaster, first_effect
from rnnforecast.forecasters.series import HybridOutput, SeriesLoss, SeriesReader, SeriesSource
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec
from rnnforecast.outputs import Forecast, Output
from rnnforecast.parameters import checked, estimator
from rnnforecast.training import Learner, resolve_device, seeds_of, useful_threads

__all__ = ["ESRNNForecaster"]

_DAYS = (24, 48, 96, 144)  # seasons of a day, whose week is the second season
# rows and longest seasons that are read of a long series
_MOST_ROWS, _MOST_SEASONS = 1024, 8


@estimator
class ESRNNForecaster(NeuralForecaster):
    """Exponential smoothing of every series, trained jointly with one shared recurrent network.

    Each series has a level and up to two seasons of its own, smoothed with coefficients of its own
    (Smyl 2020, A hybrid method of exponential smoothing and recurrent neural networks for time
    series forecasting, Int. J. Forecast. 36(1), 75-85). A dilated residual network shared by all
    series reads windows of the series less level and season, and forecasts what comes on top of
    them for all steps of the horizon at once. The gradient of the forecast's loss trains both.

    Data that are positive throughout are smoothed in logarithms, so that level and seasons
    multiply; others as they are. Rows that were not observed carry the state on. Every target of a
    series is treated as a series. One that was not there in ``fit`` takes the mean coefficients of
    those that were.

    Parameters
    ----------
    lookback : int, optional
        Rows of the network's input window. None: the longest season or two horizons, whichever is
        longer, between 24 and 336, and at most half the rows of the longest series.
        The smoothing reads the whole history, or the last 1,024 rows (eight of the longest season,
        if that is more) of a long one.
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
    loss : {"balanced", "relative", "scaled"}, default "balanced"
        Of positive data: absolute errors over the mean of forecast and truth (as sMAPE), over the
        series' seasonal naive error (as MASE), or the mean of both, each in units of what the
        seasonal naive forecast has. Additive data always take "scaled". Used where ``quantiles``
        and ``output`` are None, which see errors over the series' seasonal naive error, or their
        logarithm.
    tau : float, default 0.5
        Level of the pinball loss, in (0, 1); 0.5 is the absolute error.
    level_penalty : float, default 0.0
        Weight of the mean squared second difference of the level, in units of the series.
    max_epochs : int, default 6
    n_batches : int, default 50
        Batches of an epoch.
    batch_size : int, default 128
        Series of a batch; with fewer series, several phases of each.
    ema_decay : float or None, default None
        Memory of a moving average of the weights that is kept in their place.
    early_stopping : bool, default False
        Train on the rows before those held out, stop after ``patience`` epochs without a better
        loss on them, and keep the best weights. False: all rows train.
    validation_fraction : float, default 0.1
        Share of the rows of each series, its last ones (at least one horizon; none where a series
        is too short for that), on which intervals are calibrated. Without early stopping one more
        network is trained for that, on the rows before them and in their scale. 0 saves it, and
        calibrates on rows that were trained on.
    n_members : int, default 3
        Networks trained from different starts, whose forecasts are averaged (in logarithms where
        level and seasons multiply).
    aggregate : {"median", "mean"}, default "mean"

    Attributes
    ----------
    lookback_, stride_ : int
        Given or chosen.
    seasonality_ : tuple of int
        Given or chosen; empty for none.
    most_rows_ : int
        Rows of a series that a forecast reads, at most.
    trained_ids_ : Index
        Series that have smoothing coefficients of their own.
    place_ : ndarray of int, shape (n_series,)
        Where each series of the history stands among these; -1 for others.
    mode_ : str
        "multiplicative" or "additive".
    conformal_ : ConformalErrors
        Errors on the additive scale at rolling origins over the validation rows, of the network
        trained for that (of all over training rows where there are none).

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

    seasonality: Any = None
    mode: str = checked("auto", check_choice, choices=("auto", "multiplicative", "additive"))
    hidden_size: int = checked(40, check_int)
    dilations: Any = ((1, 2), (7, 14))
    stride: int | None = checked(None, check_int, none=True)
    loss: str = checked("balanced", check_choice, choices=("balanced", "relative", "scaled"))
    tau: float = checked(0.5, check_real, low=0, high=1, closed="neither")
    level_penalty: float = checked(0.0, check_real, low=0, closed="low")
    max_epochs: int = 6
    n_batches: int = checked(50, check_int)
    batch_size: int = checked(128, check_int)
    ema_decay: float | None = None
    early_stopping: bool = False
    n_members: int = 3
    aggregate: str = "mean"

    if TYPE_CHECKING:  # fitted, and so no parameters
        seasonality_: tuple[int, ...] = field(init=False)
        most_rows_: int = field(init=False)
        trained_ids_: pd.Index = field(init=False)
        place_: np.ndarray = field(init=False)

    # -- parameters --------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        self._given_periods()
        self._given_dilations()

    def _given_periods(self) -> tuple[int, ...] | None:
        """``seasonality`` as periods above 1, shortest first; None if it is to be chosen."""
        if self.seasonality is None:
            return None
        try:
            periods = set(map(operator.index, np.ravel(np.array(self.seasonality, dtype=object))))
        except TypeError:
            periods = set()
        if not 1 <= len(periods) <= 2 or min(periods) < 1:
            raise DataError(
                f"{type(self).__name__}: seasonality must be one or two integers >= 1, or None. "
                f"Got {self.seasonality!r}"
            )
        return tuple(sorted(periods - {1}))

    def _given_dilations(self) -> tuple[tuple[int, ...], ...]:
        try:
            blocks = tuple(tuple(map(operator.index, block)) for block in self.dilations)
        except TypeError:
            blocks = ()
        if not blocks or not all(block and min(block) >= 1 for block in blocks):
            raise DataError(
                f"{type(self).__name__}: dilations must be blocks of integers >= 1, such as "
                f"((1, 2), (7, 14)). Got {self.dilations!r}"
            )
        return blocks

    # -- fit ---------------------------------------------------------------------------------------

    def _multiplicative(self, panel: Panel) -> bool:
        lowest = float(np.nanmin(panel.targets))
        if self.mode == "multiplicative" and lowest <= 0:
            raise DataError(
                f"{type(self).__name__}: mode='multiplicative' needs positive targets. Got "
                f"{lowest:g}: use mode='additive' or 'auto'"
            )
        return self.mode == "multiplicative" or (self.mode == "auto" and lowest > 0)

    def _choose(self, panel: Panel) -> dict[str, Any]:
        longest = int(panel.lengths.max())
        if longest < self.horizon + 2:
            raise self._too_short(panel, self.horizon + 2)
        periods = self._given_periods()
        if periods is None:
            first = choose_seasonality(panel)
            periods = (first, 7 * first if first in _DAYS else 1)
        periods = tuple(p for p in periods if 1 < p <= longest // 2)
        season, cycle = (periods[0], max(periods)) if periods else (1, 1)
        wanted = min(max(cycle, 2 * self.horizon, 24), 336, longest // 2)
        window = self.lookback or max(wanted, 1)
        most_rows = max(_MOST_ROWS, _MOST_SEASONS * cycle, 4 * window)
        log = self._multiplicative(panel)
        return {
            "lookback_": window,
            "stride_": self.stride or (season if periods else self.horizon),
            "most_rows_": max(min(most_rows, longest), window),
            "seasonality_": periods,
            "mode_": "multiplicative" if log else "additive",
            "scale_": Scale.of(panel, lag=season, log=log),
        }

    def _make_output(self) -> Output:
        if self.output is not None or self.quantiles is not None:
            return super()._make_output()
        # of the seasonal naive forecast: nearly the mean of 2 |f - y| / (f + y)
        naive = float(2 * np.tanh(self.scale_.target_scale / 2).mean())
        return HybridOutput(self.loss, self.tau, naive if self.scale_.log else None)

    def _job(self, panel: Panel) -> Job:
        lengths, horizon, season = panel.lengths, self.horizon, self.scale_.lag or 1
        self.trained_ids_ = panel.ids
        self.n_untrained_ = int((lengths < horizon + 1).sum())
        self.output_ = output = self._make_output()
        spec = ESRNNSpec(
            n_series=panel.targets.shape[1] * panel.n_series,
            **self._shape(panel, output, self.hidden_size, n_more=1),
            periods=self.seasonality_,
            window=self.lookback_,
            stride=self.stride_,
            dilations=self._given_dilations(),
        )
        device = resolve_device(type(self).__name__, self.device)
        every = np.arange(panel.n_series)

        def learner(stops: np.ndarray, scale: Scale, measured: Panel) -> Learner:
            reader = SeriesReader(panel, scale, spec, every, self.most_rows_, device, torch.float32)
            units = [np.ones_like(scale.target_scale), np.zeros_like(scale.target_loc)]
            if scale.log:  # log of truth over the seasonal naive error
                naive = Scale.of(measured, lag=season).target_scale
                units = [scale.target_scale, scale.target_loc - np.log(naive)]
            unit, shift = (reader.tensor(x.reshape(-1, 1, 1)) for x in units)
            return self._learner(
                network=lambda: ESRNN(spec),
                source=SeriesSource(reader, stops, self.batch_size, self.n_batches),
                loss=SeriesLoss(output, unit, shift, self.level_penalty),
                prime=lambda network: first_effect(network, panel, scale, stops, season),
                threads=useful_threads(self.batch_size, self.hidden_size),
                device=device,
            )

        held = self._held_rows(panel, 2 * horizon + 2 * season)
        some, before = np.flatnonzero(held), lengths - held
        main = learner(before if self.early_stopping else lengths, self.scale_, panel)
        if not len(some):
            first = np.maximum((lengths - horizon) // 2, 1)
            return Job(main, WindowIndex.between(first, lengths, horizon))
        job = Job(main, WindowIndex.between(before, lengths, horizon))
        if self.early_stopping:
            source: Any = main.source
            main.validation = [(source.take(some, lengths[some], [0], held[some]), 1.0)]
        else:
            rest = _without(panel, held)
            job.calibrator_scale = Scale.of(rest, lag=season, log=self.scale_.log)
            job.calibrator = learner(before, job.calibrator_scale, rest)
            job.calibrator.n_members = 1
            job.calibrator.random_state = seeds_of(self.random_state, self.n_members + 1)[-1]
        return job

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        place = self.trained_ids_.get_indexer(history.ids)
        return {**super()._follow(history, fresh), "place_": place}

    def _to_go_on(self, network: ESRNN, panel: Panel) -> ESRNN:
        return network.grown(panel.n_series * panel.targets.shape[1])

    # -- forecasts ---------------------------------------------------------------------------------

    def _numbers_a_forecast(self, network: Any) -> int:
        return self.most_rows_ * 4 * network.spec.n_targets

    def _blocks(self, member, history, series, origins, known):
        network, weight = self.networks_[member], self.networks_[member].head.weight
        spec, options = network.spec, (self.place_, self.most_rows_, weight.device, weight.dtype)
        reader = SeriesReader(history, self.scale_, spec, *options)
        batch, _ = reader.read(series, origins, self.most_rows_)
        plain = batch.values - network.covariates(batch.series, batch.known)
        ahead = reader.tensor(np.repeat(self.scale_.known(known), spec.n_targets, 0))
        units = self._units(series)
        one = torch.ones_like(units[1])
        for start in count(0, spec.horizon):
            terms, end = network.smooth(batch, plain), [plain.shape[1] - 1]
            raw, location = (x[0, :, -1] for x in network(batch, plain, terms, end)[:2])
            block = ahead[:, start : start + spec.horizon]
            steps, effect = block.shape[1], network.covariates(batch.series, block)
            yield self._said(raw[:, :steps], location[:, :steps] + effect, *units)
            point = self._said(raw, location, 0.0, one).point.transpose(1, 2).flatten(0, 1)
            plain = torch.cat([plain, point.to(plain)], 1)
            unknown = batch.past.new_full((len(plain), spec.horizon, len(spec.past)), torch.nan)
            batch = batch._replace(past=torch.cat([batch.past, unknown], 1))

    def _said(self, raw: Tensor, location: Tensor, loc: Any, scale: Tensor) -> Forecast:
        """``(n_series * n_targets, steps, ...)`` as a forecast of ``(n_series, steps, n_targets)``
        on another scale.
        """
        raw, location = (
            part.unflatten(0, (-1, scale.shape[-1])).transpose(1, 2).cpu().double()
            for part in (raw, location)
        )
        return self.output_.forecast(raw, loc + scale * location, scale)

    def _describe(self) -> list[str]:
        seasons = " and ".join(map(str, self.seasonality_)) or "none"
        chosen = f"{self.mode_}, lookback={self.lookback_}, seasons {seasons}"
        return [*super()._describe(), chosen]


def _without(panel: Panel, held: np.ndarray) -> Panel:
    """The panel with the last ``held[i]`` targets of each series unobserved."""
    after = np.repeat(panel.indptr[1:], panel.lengths) - np.arange(len(panel.targets))
    hidden = after <= np.repeat(held, panel.lengths)
    return replace(panel, targets=np.where(hidden[:, None], np.nan, panel.targets))
