"""Forecasters whose networks read windows: which windows train, and forecasts that roll on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data.panel import Panel
from rnnforecast.data.phases import CalendarPhases, choose_phases
from rnnforecast.data.scale import Scale
from rnnforecast.data.seasonality import choose_lookback, choose_seasonality, choose_segment
from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.neural import Job, NeuralForecaster, first_effect
from rnnforecast.nn import Inputs, unfold
from rnnforecast.outputs import Output
from rnnforecast.parameters import checked, estimator
from rnnforecast.training import resolve_device, useful_threads
from rnnforecast.training.source import Batch, WindowSource, static_inputs, to_inputs

if TYPE_CHECKING:
    from rnnforecast.forecasters.streaming import ForecastStream

__all__ = ["WindowForecaster"]

_MAX_STEPS = 100  # batches in an epoch
_VALIDATION_WINDOWS = 1024
_MANY = 100_000  # training windows


@estimator
class WindowForecaster(NeuralForecaster):
    """Base of the forecasters whose model is a :class:`~rnnforecast.nn.WindowNetwork`.

    A subclass declares its further parameters and builds its network in :meth:`_network`.

    Parameters
    ----------
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation.
    lookback : int, optional
        Rows that a forecast may look back on; what a series has not is masked. None: seven seasons
        or two horizons, whichever is longer, between 24 and 336, and at most half of what the
        typical (median) series has beside one horizon.
    hidden_size : int, optional
        Units of each layer and direction. None: 64 where at least 100,000 windows train, else 32.
    segment : int, optional
        Neighbouring steps of the look-back folded into one step of the network. None: a season,
        where the look-back holds two at least; else 1, step by step.
    scaler : {"window", "series", None}, default "window"
        "series": each series by its mean and deviation over the rows of fit. "window": besides,
        each window by its own. None: values as they are.

    Attributes
    ----------
    lookback_, seasonality_, hidden_size_, segment_, batch_size_ : int
        Given or chosen.
    phases_ : CalendarPhases or None
        Cycles of the calendar that the network is told.
    """

    seasonality: int | None = checked(None, check_int, none=True)
    hidden_size: int | None = checked(None, check_int, none=True)
    segment: int | None = checked(None, check_int, none=True)
    scaler: str | None = checked("window", check_choice, choices=("window", "series", None))

    if TYPE_CHECKING:  # fitted, and so no parameters
        lookback_: int = field(init=False)
        seasonality_: int = field(init=False)
        hidden_size_: int = field(init=False)
        segment_: int = field(init=False)
        phases_: CalendarPhases | None = field(init=False)
    # of the end of the history, one array a network, where a stream keeps them
    _encodings = None
    # parameters that not every subclass has
    training = "windows"
    calendar = False

    _lookback_rule = staticmethod(choose_lookback)  # of panel, horizon and season
    _segment_rule = staticmethod(choose_segment)  # of season and look-back

    @abstractmethod
    def _network(self, shape: dict[str, Any]) -> Any:
        """A network of this shape; its parameters are filled afterwards."""

    # -- fit ---------------------------------------------------------------------------------------

    def _choose(self, panel: Panel) -> dict[str, Any]:
        season = self.seasonality or panel.cached("season", lambda: choose_seasonality(panel))
        phases = None
        if self.calendar:
            phases = panel.cached(("phases", season), lambda: choose_phases(panel, season))
        lookback = self.lookback or self._lookback_rule(panel, self.horizon, season)
        segment = self.segment or self._segment_rule(season, lookback)
        if segment > lookback:
            raise DataError(
                f"{type(self).__name__}: segment must be at most the look-back, {lookback}. "
                f"Got {segment}"
            )
        # few windows are learnt by heart by a wider network (benchmarks/RESULTS.md)
        many = len(self._split(panel, lookback)[0]) >= _MANY
        per_series = self.scaler is not None
        return {
            "lookback_": lookback,
            "seasonality_": season,
            "segment_": segment,
            "hidden_size_": self.hidden_size or (64 if many else 32),
            "phases_": phases,
            "scale_": panel.cached(("scale", per_series), lambda: Scale.of(panel, per_series)),
        }

    def _split(self, panel: Panel, lookback: int) -> tuple[WindowIndex, WindowIndex]:
        """Windows that train and those that validate, which forecast the last rows of a series, as
        far as one training window is left before them.
        """
        horizon, lengths = self.horizon, panel.lengths
        full = lengths >= lookback + horizon
        before = np.where(full, lookback, np.minimum(lookback, lengths // 2))
        held = self._held_rows(panel, before + horizon)
        train = WindowIndex.training(lengths, held, lookback, horizon)
        if not len(train):
            raise self._too_short(panel, horizon + 1)
        return train, WindowIndex.between(lengths - held, lengths, horizon)

    def _job(self, panel: Panel) -> Job:
        lookback, phases, scale = self.lookback_, self.phases_, self.scale_
        train, validation = self._split(panel, lookback)
        self.n_untrained_ = int((train.counts == 0).sum())
        self.batch_size_ = self.batch_size or min(max(len(train) // 1000, 32), 128)
        self.output_ = output = self._make_output()
        device = resolve_device(type(self).__name__, self.device)
        source = partial(
            WindowSource,
            panel,
            scale=scale,
            phases=phases,
            horizon=self.horizon,
            batch_size=self.batch_size_,
            max_steps=_MAX_STEPS,
            device=device,
        )
        seen = (lookback, phases, self.horizon, self.validation_fraction, self.scaler is None)
        windows = panel.cached(
            ("windows", *seen, self.batch_size_, str(device)),
            lambda: source(train, lookback=lookback),
        )
        held = source(validation, lookback=lookback, like=windows)
        batches, loss = windows, partial(_window_loss, output)
        if self.training == "dense":
            extra = _stretch(train, lookback, self.segment_)
            batches = source(
                train.later(np.minimum(extra, np.maximum(train.counts - 1, 0))),
                lookback=lookback + extra,
                like=windows,
                offsets=np.arange(-extra, 1, self.segment_),
            )
            loss = partial(_stretch_loss, output, lookback, self.segment_)
        shape = self._shape(panel, output, self.hidden_size_, phases.size if phases else 0)
        shape.update(lookback=lookback, segment=self.segment_)

        def prime(network: Any) -> None:
            first_effect(network, panel, scale, train.stops(self.horizon), self.seasonality_)
            network.prime(
                (Inputs(*(part.cpu() for part in batch.inputs)), batch.truth.cpu())
                for batch in windows.evenly(512, windows.batch_size)
            )

        learner = self._learner(
            network=lambda: self._network(shape),
            source=batches,
            loss=loss,
            validation=[
                (batch, float(len(batch.truth)))
                for batch in held.evenly(_VALIDATION_WINDOWS, batches.batch_size)
            ],
            validation_loss=partial(_window_loss, output),
            prime=prime,
            threads=useful_threads(self.batch_size_, self.hidden_size_),
            device=device,
        )
        return Job(learner, validation if len(validation) else train)

    # -- forecasts ---------------------------------------------------------------------------------

    def _numbers_a_forecast(self, network: Any) -> int:
        return network.spec.lookback * network.spec.hidden_size

    def _inputs(self, network, history, series, origins) -> Inputs:
        """Windows before some origins, as a network reads them."""
        weight = next(network.parameters())
        batch = gather(history, series, origins, network.spec.lookback, 0)
        static = static_inputs(history, self.scale_, self.phases_, series, origins)
        return to_inputs(batch, self.scale_, static, weight.device, weight.dtype).inputs

    def _blocks(self, member, history, series, origins, known):
        """The first window is perhaps one that was encoded elsewhere; the others end with the block
        before. What is fed back is the point forecast without the covariates' effect, so that a
        row's forecast depends on its own covariates alone.
        """
        network = self.networks_[member]
        weight = next(network.parameters())

        def tensor(values: Any) -> Tensor:
            return torch.as_tensor(values).to(device=weight.device, dtype=weight.dtype)

        series_loc, series_scale = self._units(series)
        horizon, lookback = network.spec.horizon, network.spec.lookback
        ahead = tensor(self.scale_.known(known))
        inputs = self._inputs(network, history, series, origins)
        residual, past, static = network.take_effect(inputs), inputs.past, inputs.static
        for start in count(0, horizon):
            if start:
                at = origins + start
                static = tensor(static_inputs(history, self.scale_, self.phases_, series, at))
            window = network.normalise(residual)
            if self._encodings is not None and start == 0:
                rows = self._encodings[member].reshape(history.n_series, -1)[series]
                encoded = rows.reshape(-1, self._encodings[member].shape[1])
                context = network.with_static(tensor(encoded), static)
            else:
                context = network.context(window, inputs._replace(past=past, static=static))
            raw, anchor = network.decode(window, context)
            block = ahead[:, start : start + horizon]
            shown = (*network.with_known(raw, anchor, context, block), window.scale)
            numbers, location, scale = (part.cpu().double() for part in shown)
            location, scale = series_loc + series_scale * location, series_scale * scale
            yield self.output_.forecast(numbers, location, scale)
            plain = self.output_.forecast(raw, anchor, window.scale).point
            residual = torch.cat([residual, plain], 1)[:, -lookback:]
            unknown = past.new_full((len(past), horizon, past.shape[-1]), torch.nan)
            past = torch.cat([past, unknown], 1)[:, -lookback:]

    def stream(self, dtype: str = "float64") -> ForecastStream:
        """Forecasts that move on with every observation, at the cost of one step of the network.

        Parameters
        ----------
        dtype : {"float64", "float32"}, default "float64"
            Of the states; "float32" halves the cost for many series.

        Returns
        -------
        ForecastStream
            At the end of the history; see there.

        Raises
        ------
        DataError
            If the encoder is not causal: bidirectional, for example.
        """
        from rnnforecast.forecasters.streaming import ForecastStream

        return ForecastStream(self, dtype)

    def _describe(self) -> list[str]:
        *parts, best = super()._describe()
        return [*parts, f"lookback={self.lookback_}, seasonality={self.seasonality_}", best]


def _window_loss(output: Output, network: Any, batch: Batch) -> Tensor:
    """Loss of a batch of windows, in the unit of the series."""
    losses = [
        output.loss(output.forecast(*said), batch.truth) for said in network.says(batch.inputs)
    ]
    return sum(losses[1:], losses[0]) / len(losses)


def _stretch_loss(
    output: Output, lookback: int, segment: int, network: Any, batch: Batch
) -> Tensor:
    """Loss of all windows in a batch of stretches, each read in one pass."""
    inputs, horizon = batch.inputs, network.spec.horizon
    known = torch.cat([inputs.known[:, lookback:], inputs.future_known], 1)
    truth = torch.cat([inputs.targets[:, lookback:], batch.truth], 1)
    raw, location, scale = network.forward_dense(inputs._replace(future_known=known))
    forecast = output.forecast(raw, location, scale)
    return output.loss(forecast, unfold(truth, horizon, segment))


def _stretch(train: WindowIndex, lookback: int, segment: int) -> int:
    """Rows by which a stretch of dense training is longer than a window: at most half a look-back,
    as far as the training windows of the typical (median) series reach, in whole segments.
    """
    room = int(np.median(train.counts[train.counts > 0])) - 1
    return max(min(lookback // 2, room), 0) // segment * segment
