"""The hybrid of exponential smoothing and a recurrent network that won the M4 competition."""

from __future__ import annotations

import numbers
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.neural import Job, NeuralForecaster, first_effect
from rnnforecast.forecasters.series import HybridOutput, SeriesLoss, SeriesReader, SeriesSource
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec
from rnnforecast.outputs import Forecast, TransformedForecast
from rnnforecast.parameters import estimator
from rnnforecast.training import Learner, resolve_device, seeds_of, useful_threads

__all__ = ["ESRNNForecaster"]

_MODES = ("auto", "multiplicative", "additive")
_DAYS = (24, 48, 96, 144)  # seasons of a day, whose week is the second season
# rows and longest seasons that are read of a long series
_MOST_ROWS, _MOST_SEASONS = 1024, 8
_CHUNK_NUMBERS = 1 << 22  # numbers in one pass: bounds the memory of a forecast


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
        network is trained for that, on the rows before them. 0 saves it, and calibrates on rows
        that were trained on.
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
    n_untrained_ : int
        Series too short to train on: they are forecast like the others.
    history_, histories_, network_, networks_, n_epochs_, output_, scale_, panel_, roles_, \
target_names_, cutoff_, n_features_in_, feature_names_in_
        As of :class:`~rnnforecast.DeepRNNForecaster`.

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
    mode: str = "auto"
    hidden_size: int = 40
    dilations: Any = ((1, 2), (7, 14))
    stride: int | None = None
    loss: str = "balanced"
    tau: float = 0.5
    level_penalty: float = 0.0
    max_epochs: int = 6
    n_batches: int = 50
    batch_size: int = 128
    ema_decay: float | None = None
    early_stopping: bool = False
    n_members: int = 3
    aggregate: str = "mean"

    if TYPE_CHECKING:  # fitted, and so no parameters
        scale_: Scale = field(init=False)
        seasonality_: tuple[int, ...] = field(init=False)
        most_rows_: int = field(init=False)
        trained_ids_: pd.Index = field(init=False)
        place_: np.ndarray = field(init=False)

    _losses = ("balanced", "relative", "scaled")

    # -- parameters --------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "stride", self.stride, none=True)
        for name in ("hidden_size", "n_batches", "batch_size"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "tau", self.tau, 0, 1, closed="neither")
        check_real(owner, "level_penalty", self.level_penalty, 0, closed="low")
        check_choice(owner, "mode", self.mode, _MODES)
        self._given_periods()
        self._given_dilations()

    def _given_periods(self) -> tuple[int, ...] | None:
        """``seasonality`` as periods above 1, shortest first; None if it is to be chosen."""
        if self.seasonality is None:
            return None
        periods = np.atleast_1d(np.asarray(self.seasonality, dtype=object)).ravel().tolist()
        if not (len(periods) <= 2 and _counts(periods)):
            raise DataError(
                f"{type(self).__name__}: seasonality must be one or two integers >= 1, or None. "
                f"Got {self.seasonality!r}"
            )
        return tuple(sorted({int(p) for p in periods if p > 1}))

    def _given_dilations(self) -> tuple[tuple[int, ...], ...]:
        try:
            blocks = tuple(tuple(block) for block in self.dilations)
        except TypeError:
            blocks = ()
        if not blocks or not all(map(_counts, blocks)):
            raise DataError(
                f"{type(self).__name__}: dilations must be blocks of integers >= 1, such as "
                f"((1, 2), (7, 14)). Got {self.dilations!r}"
            )
        return tuple(tuple(map(int, block)) for block in blocks)

    # -- fit ---------------------------------------------------------------------------------------

    def _multiplicative(self, panel: Panel) -> bool:
        lowest = float(np.nanmin(panel.targets))
        if self.mode == "multiplicative" and lowest <= 0:
            raise DataError(
                f"{type(self).__name__}: mode='multiplicative' needs positive targets. Got "
                f"{lowest:g}: use mode='additive' or 'auto'"
            )
        return self.mode == "multiplicative" or (self.mode == "auto" and lowest > 0)

    def _choices(self, panel: Panel) -> tuple[tuple[int, ...], int]:
        """Seasonal periods and rows of the input window: given, or chosen by rule."""
        longest = int(panel.lengths.max())
        if longest < self.horizon + 2:
            raise self._too_short(panel, self.horizon + 2)
        periods = self._given_periods()
        if periods is None:
            first = choose_seasonality(panel)
            periods = (first, 7 * first if first in _DAYS else 1)
        periods = tuple(p for p in periods if 1 < p <= longest // 2)
        wanted = max(max(periods, default=1), 2 * self.horizon, 24)
        return periods, self.lookback or max(min(wanted, 336, longest // 2), 1)

    def _job(self, panel: Panel, goes_on: bool) -> Job:
        lengths, horizon = panel.lengths, self.horizon
        if goes_on:
            periods, window, log = self.seasonality_, self.lookback_, self.scale_.log
        else:
            (periods, window), log = self._choices(panel), self._multiplicative(panel)
        season = periods[0] if periods else 1
        scale = self.scale_ if goes_on else Scale.of(panel, lag=season, log=log)
        # of the seasonal naive forecast: the mean of |f - y|, and in logarithms nearly that of
        # 2 |f - y| / (f + y)
        naive = Scale.of(panel, lag=season).target_scale
        relative = float(2 * np.tanh(scale.target_scale / 2).mean()) if log else None
        output = self.output_ if goes_on else self._make_output()
        if self.output is None and self.quantiles is None and not goes_on:
            output = HybridOutput(self.loss, self.tau, relative)
        spec = ESRNNSpec(
            n_series=panel.targets.shape[1] * panel.n_series,
            **self._shape(panel, output, self.hidden_size, n_more=1),
            periods=periods,
            window=window,
            stride=self.stride or (season if season > 1 else horizon),
            dilations=self._given_dilations(),
        )
        device = resolve_device(type(self).__name__, self.device)
        most_rows = max(_MOST_ROWS, _MOST_SEASONS * max(periods, default=1), 4 * window)
        most_rows = max(min(most_rows, int(lengths.max())), window)
        most_rows = self.most_rows_ if goes_on else most_rows
        options = (np.arange(panel.n_series), most_rows, device, torch.float32)
        reader = SeriesReader(panel, scale, spec, *options)
        # where level and seasons multiply: log of truth over the seasonal naive error
        units = scale.target_scale if log else np.ones_like(naive)
        shifts = scale.target_loc - np.log(naive) if log else np.zeros_like(naive)
        unit, shift = (reader.tensor(x.reshape(-1, 1, 1)) for x in (units, shifts))

        def learner(stops: np.ndarray, **parts: Any) -> Learner:
            return self._learner(
                network=lambda: ESRNN(spec),
                source=SeriesSource(reader, stops, self.batch_size, self.n_batches),
                loss=SeriesLoss(output, unit, shift, self.level_penalty),
                prime=lambda network: first_effect(network, panel, scale, stops, season),
                threads=useful_threads(self.batch_size, self.hidden_size),
                device=device,
                **parts,
            )

        held = np.maximum(np.ceil(self.validation_fraction * lengths).astype(np.int64), horizon)
        spare = lengths - held >= 2 * horizon + 2 * season
        held = panel.observed_only(np.where(spare & (self.validation_fraction > 0), held, 0))
        some, calibrator = np.flatnonzero(held), None
        main = learner(lengths - held if self.early_stopping else lengths)
        if self.early_stopping and len(some):
            source: Any = main.source
            main.validation = [(source.take(some, lengths[some], [0], held[some]), 1.0)]
        elif len(some):
            calibrator = learner(lengths - held)
            calibrator.n_members = 1
            calibrator.random_state = seeds_of(self.random_state, self.n_members + 1)[-1]
        first = lengths - held if len(some) else np.maximum((lengths - horizon) // 2, 1)
        fitted = {
            "lookback_": window,
            "stride_": spec.stride,
            "most_rows_": most_rows,
            "trained_ids_": panel.ids,
            "seasonality_": periods,
            "mode_": "multiplicative" if log else "additive",
            "scale_": scale,
            "output_": output,
            "n_untrained_": int((lengths < horizon + 1).sum()),
        }
        return Job(main, fitted, WindowIndex.between(first, lengths, horizon), calibrator)

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        scale = self.scale_.on(history) if fresh else self.scale_.following(history)
        return {"scale_": scale, "place_": self.trained_ids_.get_indexer(history.ids)}

    def _to_go_on(self, network: ESRNN, panel: Panel) -> ESRNN:
        return network.grown(panel.n_series * panel.targets.shape[1])

    # -- forecasts ---------------------------------------------------------------------------------

    def _error_scale(self, series: np.ndarray) -> np.ndarray:
        return np.ones_like(self.scale_.target_scale[series])

    def _truth_as_forecast(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        return self.scale_.targets(values, series)

    def _in_data_units(self, forecast: Forecast, series: np.ndarray) -> Forecast:
        location, scale = (
            torch.as_tensor(part[series])[:, None].expand(forecast.median.shape)
            for part in (self.scale_.target_loc, self.scale_.target_scale)
        )
        return TransformedForecast(forecast, location, scale, _exp if self.scale_.log else None)

    def _network_says(self, member, history, series, origins, n_steps, known):
        network, most = self.networks_[member], self.most_rows_
        options = (self.place_, most, network.head.weight.device, network.head.weight.dtype)
        reader = SeriesReader(history, self.scale_, network.spec, *options)
        size = max(_CHUNK_NUMBERS // (most * 4 * network.spec.n_targets), 1)
        parts = [
            self._roll(network, reader, series[k], origins[k], n_steps, known[k])
            for k in (slice(start, start + size) for start in range(0, len(series), size))
        ]
        return Forecast.joined(parts).widened(self.horizon)

    @torch.inference_mode()
    def _roll(self, network, reader, series, origins, n_steps, known) -> Forecast:
        """One network's forecast: blocks of the horizon, each read as observed before the next."""
        spec, n, horizon = network.spec, network.spec.n_targets, self.horizon
        batch, _ = reader.read(series, origins, self.most_rows_)
        plain = batch.values - network.covariates(batch.series, batch.known)
        more = [(0, 0), (0, -n_steps % horizon), (0, 0)]
        known = np.pad(self.scale_.known(known), more, constant_values=np.nan)
        effect: Any = network.covariates(batch.series, reader.tensor(np.repeat(known, n, 0)))
        blocks: list[Forecast] = []
        for start in range(0, n_steps, horizon):
            terms, end = network.smooth(batch, plain), [plain.shape[1] - 1]
            raw, location = (x[0, :, -1] for x in network(batch, plain, terms, end)[:2])
            own = effect[:, start : start + horizon] if spec.known else 0.0
            blocks.append(self._said(raw, location + own, n))
            point = self._said(raw, location, n).point.transpose(1, 2).flatten(0, 1)
            plain = torch.cat([plain, point.to(plain)], 1)
            unknown = batch.past.new_full((len(plain), horizon, len(spec.past)), torch.nan)
            batch = batch._replace(past=torch.cat([batch.past, unknown], 1))
        return Forecast.joined(blocks, 1)[:, :n_steps]

    def _said(self, raw: torch.Tensor, location: torch.Tensor, n: int) -> Forecast:
        """``(n_series * n, steps, ...)`` as a forecast of ``(n_series, steps, n)``."""
        raw, location = (
            part.unflatten(0, (-1, n)).transpose(1, 2).cpu().double() for part in (raw, location)
        )
        return self.output_.forecast(raw, location, torch.ones_like(location))

    def _describe(self) -> list[str]:
        seasons = " and ".join(map(str, self.seasonality_)) or "none"
        chosen = f"{self.mode_}, lookback={self.lookback_}, seasons {seasons}"
        return [*super()._describe(), chosen]


def _counts(values: Any) -> bool:
    """Whether there are values, all of them whole numbers from 1 on."""
    whole = [isinstance(v, numbers.Integral) and not isinstance(v, bool) for v in values]
    return bool(whole) and all(whole) and min(values) >= 1


def _exp(z: torch.Tensor) -> torch.Tensor:
    return torch.exp(z.clamp(max=700.0))  # e^700 is the last before infinity
