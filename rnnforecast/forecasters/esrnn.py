"""The hybrid of exponential smoothing and a recurrent network that won the M4 competition."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.neural import Job, NeuralForecaster
from rnnforecast.forecasters.parameters import estimator
from rnnforecast.forecasters.smoothed import (
    HybridOutput,
    SeriesLoss,
    SeriesSource,
    States,
    appended,
    read_series,
    states_of,
    warm_rows,
)
from rnnforecast.nn.cells import cell_class
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec
from rnnforecast.nn.smoothing import Smoothed
from rnnforecast.outputs import Forecast, Output, TransformedForecast
from rnnforecast.training import resolve_device, seeds_of, useful_threads

__all__ = ["ESRNNForecaster"]

_LOSSES = ("balanced", "relative", "scaled")
_MODES = ("auto", "multiplicative", "additive")
_DAYS = (24, 48, 96, 144)  # seasons of a day, whose week is the second season
_MOST_POSITIONS = 128  # read before a forecast
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
        The smoothing always reads the whole history.
    seasonality : int or tuple of int, optional
        One or two seasonal periods in steps, the shorter first; 1 for none. None: the first from
        the calendar, else from the autocorrelation; a day (24, 48, 96 or 144 steps) gets its week
        as a second one. A series shorter than twice a season goes without it.
    mode : {"auto", "multiplicative", "additive"}, default "auto"
        Whether level and seasons multiply. "auto": if all observed targets are positive. Later
        values that are not positive then count as the smallest one of fit.
    cell : {"lstm", "gru", "rnn"}, another registered name or a subclass of Cell, default "lstm"
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
    mode_ : str
        "multiplicative" or "additive".
    histories_ : list of History
        Of each member: losses, gradient norms and learning rates by epoch.
    networks_ : list of ESRNN
        The torch modules.
    states_ : list of States
        Of each member: level and seasons at every row of the history.
    first_lengths_ : ndarray of int, shape (n_series,)
        Rows of each series when it was first seen.
    n_positions_ : int
        Positions that the network reads before it forecasts.
    conformal_ : ConformalErrors
        Errors on the additive scale at rolling origins over the validation rows, of the network
        trained for that (of all over training rows where there are none).
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

    seasonality: Any = None
    mode: str = "auto"
    cell: Any = "lstm"
    hidden_size: int = 40
    dilations: Any = ((1, 2), (7, 14))
    stride: int | None = None
    dropout: float = 0.0
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
        scale_: Scale
        states_: list[States]
        seasonality_: tuple[int, ...]
        n_positions_: int
        first_lengths_: np.ndarray

    # -- parameters --------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "stride", self.stride, none=True)
        for name in ("hidden_size", "n_batches", "batch_size"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        check_real(owner, "tau", self.tau, 0, 1, closed="neither")
        check_real(owner, "level_penalty", self.level_penalty, 0, closed="low")
        check_choice(owner, "mode", self.mode, _MODES)
        cell_class(self.cell, owner)
        self._given_periods()
        self._given_dilations()

    def _check_loss(self) -> None:
        check_choice(type(self).__name__, "loss", self.loss, _LOSSES)

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

    # -- fit ---------------------------------------------------------------------------------------

    def _job(self, panel: Panel, goes_on: bool) -> Job:
        owner, lengths = type(self).__name__, panel.lengths
        device = resolve_device(owner, self.device)
        log = self.scale_.log if goes_on else self._multiplicative(panel)
        periods, window = self._choices(panel, goes_on)
        season = periods[0] if periods else 1
        scale = self.scale_ if goes_on else Scale.of(panel, log=log, lag=season)
        held = np.maximum(
            np.ceil(self.validation_fraction * lengths).astype(np.int64), self.horizon
        )
        spare = lengths - held >= 2 * self.horizon + 2 * season
        held = panel.observed_only(np.where(spare & (self.validation_fraction > 0), held, 0))
        naive = Scale.of(panel, lag=season).target_scale
        output = self.output_ if goes_on else self._es_output(panel, log, season)
        spec = ESRNNSpec(
            n_series=panel.targets.shape[1] * panel.n_series,
            **self._columns(panel, n_more=1),
            periods=periods,
            window=window,
            horizon=self.horizon,
            stride=self.stride or (season if season > 1 else self.horizon),
            dilations=self._given_dilations(),
            hidden_size=self.hidden_size,
            dropout=self.dropout,
            cell=self.cell,
            n_params=output.n_params,
        )

        def like(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values.ravel(), dtype=torch.float32, device=device)

        # where level and seasons multiply: log of truth over the seasonal naive error
        unit = scale.target_scale if log else np.ones_like(naive)
        shift = scale.target_loc - np.log(naive) if log else np.zeros_like(naive)

        def learner(stops: np.ndarray, **parts: Any) -> Any:
            source = SeriesSource(
                panel, scale, spec, stops, self.batch_size, self.n_batches, device
            )
            return self._learner(
                network=lambda: ESRNN(spec),
                source=source,
                loss=SeriesLoss(output, like(unit), like(shift), self.level_penalty),
                prime=lambda network: _prime(network, panel, scale, stops),
                threads=useful_threads(self.batch_size, self.hidden_size),
                device=device,
                **parts,
            )

        main = learner(lengths - held if self.early_stopping else lengths)
        extra = None
        some = np.flatnonzero(held)
        if self.early_stopping and len(some):
            batch = main.source.take(some, lengths[some], [0], (lengths - held)[some])
            main.validation = [(batch, 1.0)]
        elif len(some):
            extra = learner(lengths - held)
            extra.n_members, extra.patience = 1, None
            extra.random_state = seeds_of(self.random_state, self.n_members + 1)[-1]
        first = lengths - held if len(some) else warm_rows(lengths, periods, self.horizon)
        first = np.where(held > 0, first, lengths) if len(some) else first
        positions = (int(lengths.max()) - self.horizon - window) // spec.stride + 1
        fitted = {
            "lookback_": window,
            "stride_": spec.stride,
            "seasonality_": periods,
            "mode_": "multiplicative" if log else "additive",
            "scale_": scale,
            "output_": output,
            "n_positions_": min(max(positions, 1), _MOST_POSITIONS),
            "first_lengths_": self._first_lengths(panel, fresh=not goes_on),
        }
        return Job(main, fitted, WindowIndex.between(first, lengths, self.horizon), extra)

    def _choices(self, panel: Panel, goes_on: bool) -> tuple[tuple[int, ...], int]:
        """Seasonal periods and rows of the input window: given, or chosen by rule."""
        longest = int(panel.lengths.max())
        if goes_on:
            return self.seasonality_, self.lookback_
        if longest < self.horizon + 2:
            rows = "1 row (n_samples=1)" if longest == 1 else f"{longest} rows"
            raise DataError(
                f"{type(self).__name__}: the longest series has {rows}; horizon {self.horizon} "
                f"needs at least {self.horizon + 2}: use a smaller horizon, or more rows"
            )
        periods = self._given_periods()
        if periods is None:
            first = choose_seasonality(panel)
            periods = (first, 7 * first if first in _DAYS else 1)
        periods = tuple(p for p in periods if 1 < p <= longest // 2)
        wanted = max(max(periods, default=1), 2 * self.horizon, 24)
        return periods, self.lookback or max(min(wanted, 336, longest // 2), 1)

    def _es_output(self, panel: Panel, log: bool, season: int) -> Output:
        if self.output is not None or self.quantiles is not None:
            return self._make_output()
        return HybridOutput(self.loss, self.tau, _relative_error(panel, season) if log else None)

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        scale = self.scale_.on(history) if fresh else self.scale_.following(history)
        first = self._first_lengths(history, fresh)
        states = [states_of(network, history, scale, first) for network in self.networks_]
        return {"scale_": scale, "first_lengths_": first, "states_": states}

    def _first_lengths(self, history: Panel, fresh: bool) -> np.ndarray:
        """Rows of each series when it was first seen: the first states are measured on some of
        these, whatever comes after them.
        """
        old = np.empty(0, dtype=np.int64) if fresh else self.first_lengths_
        return np.concatenate([old, history.lengths[len(old) :]])

    # -- forecasts ---------------------------------------------------------------------------------

    def _error_scale(self, series: np.ndarray) -> np.ndarray:
        return np.ones((len(series), self.scale_.target_scale.shape[1]))

    def _truth_as_forecast(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        return self.scale_.targets(values, series)

    def _in_data_units(self, forecast: Forecast, series: np.ndarray) -> Forecast:
        location, scale = (
            torch.as_tensor(part[series])[:, None].expand(forecast.median.shape)
            for part in (self.scale_.target_loc, self.scale_.target_scale)
        )
        return TransformedForecast(forecast, _exp if self.scale_.log else _same, location, scale)

    def _network_says(self, member, history, series, origins, n_steps, known):
        spec = self.networks_[member].spec
        each = (spec.window + spec.hidden_size) * self.n_positions_ * spec.n_targets
        size = max(_CHUNK_NUMBERS // each, 1)
        width = spec.window + (self.n_positions_ - 1) * spec.stride
        parts = [
            self._roll(
                member,
                history,
                series[k : k + size],
                origins[k : k + size],
                width,
                n_steps,
                known[k : k + size],
            )
            for k in range(0, max(len(series), 1), size)
        ]
        return Forecast.joined(parts).widened(spec.horizon)

    @torch.inference_mode()
    def _roll(self, member, history, series, origins, width, n_steps, known) -> Forecast:
        """One network's forecast: blocks of the horizon, each smoothed before the next."""
        network, states = self.networks_[member], self.states_[member]
        spec, n = network.spec, network.spec.n_targets
        batch = read_series(history, self.scale_, series, origins, width, spec)
        plain = batch.values - network.covariates(batch.series, batch.known)
        smoothed = states.before(history, series, origins, width)
        ahead = torch.as_tensor(np.repeat(self.scale_.known(known), n, 0))
        effect: Any = network.covariates(batch.series, ahead)
        blocks: list[Forecast] = []
        for start in range(0, n_steps, spec.horizon):
            tensors = Smoothed(
                torch.from_numpy(smoothed.level), tuple(map(torch.from_numpy, smoothed.seasons))
            )
            raw, location = (
                part[-1] for part in network(network.positions(batch, plain, tensors, [width - 1]))
            )
            steps = slice(0, n_steps - start)
            at = location if not spec.n_known else location + _padded(effect[:, start:], location)
            blocks.append(self._said(raw[:, steps], at[:, steps], n))
            if start + spec.horizon < n_steps:
                point = self._said(raw, location, n).point.transpose(1, 2).flatten(0, 1)
                batch, plain, smoothed = appended(network, batch, plain, smoothed, point)
        return Forecast.joined(blocks, 1)

    def _said(self, raw: torch.Tensor, location: torch.Tensor, n: int) -> Forecast:
        """``(n_series * n, steps, ...)`` as a forecast of ``(n_series, steps, n)``."""
        raw, location = (part.unflatten(0, (-1, n)).transpose(1, 2) for part in (raw, location))
        return self.output_.forecast(raw, location, torch.ones_like(location))

    def _describe(self) -> list[str]:
        seasons = " and ".join(map(str, self.seasonality_)) or "none"
        chosen = f"{self.mode_}, lookback={self.lookback_}, seasons {seasons}"
        return [*super()._describe(), chosen]


def _exp(z: torch.Tensor) -> torch.Tensor:
    return torch.exp(z.clamp(max=700.0))  # e^700 is the last before infinity


def _same(z: torch.Tensor) -> torch.Tensor:
    return z


def _padded(effect: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Effects of the steps that are asked for, zero beyond them."""
    out = torch.zeros_like(like)
    out[:, : effect.shape[1]] = effect[:, : like.shape[1]]
    return out


def _relative_error(panel: Panel, season: int) -> float:
    """Mean symmetric relative error of the seasonal naive forecast over all series."""
    own = np.arange(len(panel.targets)) - np.repeat(panel.indptr[:-1], panel.lengths)
    lag = np.repeat(np.where(panel.lengths > season, season, 1), panel.lengths)
    later = np.flatnonzero(own >= lag)
    now, before = panel.targets[later], panel.targets[later - lag[later]]
    error = np.nan_to_num(2 * np.abs(now - before) / (now + before))
    owner = np.repeat(np.arange(panel.n_series), panel.lengths)[later]
    size = np.bincount(owner, error.mean(1)) / np.maximum(np.bincount(owner), 1)
    return float(size[size > 0].mean()) if (size > 0).any() else 1.0


@torch.no_grad()
def _prime(network: ESRNN, panel: Panel, scale: Scale, stops: np.ndarray) -> None:
    """Which series have which season; the effect of covariates by least squares of seasonal
    differences on those of the covariates, slightly shrunk.
    """
    spec = network.spec
    rows = np.repeat(stops, spec.n_targets)
    able = [torch.as_tensor(rows >= 2 * period, dtype=torch.float32) for period in spec.periods]
    network.seasonal.copy_(torch.stack(able) if able else network.seasonal)
    if not spec.n_known:
        return
    lag = spec.periods[0] if spec.periods else 1
    own = np.arange(len(panel.targets)) - np.repeat(panel.indptr[:-1], panel.lengths)
    later = np.flatnonzero((own >= lag) & (own < np.repeat(stops, panel.lengths)))
    numbers = network.effect.encoder.numbers
    x = scale.known(panel.known)[:, numbers]
    dx = np.nan_to_num(x[later] - x[later - lag])
    owner = np.repeat(np.arange(panel.n_series), panel.lengths)
    z = scale.targets(panel.targets[:, None], owner)[:, 0]
    weight = torch.zeros_like(network.effect.linear.weight)
    for target in range(spec.n_targets):
        dz = z[later, target] - z[later - lag, target]
        seen = ~np.isnan(dz)
        gram = dx[seen].T @ dx[seen] + 1e-3 * max(seen.sum(), 1) * np.eye(dx.shape[1])
        found = np.linalg.solve(gram, dx[seen].T @ dz[seen])
        weight[target, : len(found)] = torch.as_tensor(found)
    network.effect.linear.weight.copy_(weight)
