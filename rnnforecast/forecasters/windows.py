"""Forecasters whose networks read windows: which windows train, and forecasts that roll on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnforecast._validation import check_int
from rnnforecast.data.panel import Panel
from rnnforecast.data.phases import CalendarPhases, choose_phases
from rnnforecast.data.scale import Scale
from rnnforecast.data.seasonality import choose_lookback, choose_seasonality, choose_segment
from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.neural import Job, NeuralForecaster, first_effect
from rnnforecast.nn import Inputs, WindowNetwork, unfold
from rnnforecast.outputs import Forecast, Output
from rnnforecast.parameters import estimator
from rnnforecast.training import resolve_device, useful_threads
from rnnforecast.training.source import Batch, WindowSource, static_inputs, to_inputs

if TYPE_CHECKING:
    from rnnforecast.forecasters.streaming import ForecastStream

__all__ = ["Plan", "WindowForecaster"]

_MAX_STEPS = 100  # batches in an epoch
_VALIDATION_WINDOWS = 1024
_MANY = 100_000  # training windows
_CHUNK_NUMBERS = 1 << 22  # hidden states in one pass: bounds the memory of a forecast


class Plan(NamedTuple):
    """Which windows train: what a fit chooses from the panel."""

    lookback: int
    season: int
    phases: CalendarPhases | None
    train: WindowIndex  # forecast none of the last rows of each series
    validation: WindowIndex  # forecast these alone


@estimator
class WindowForecaster(NeuralForecaster):
    """Base of the forecasters whose model is a :class:`~rnnforecast.nn.WindowNetwork`.

    A subclass declares its further parameters and builds its network in :meth:`_network`.

    Parameters
    ----------
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation.
    hidden_size : int, optional
        Units of each recurrent layer and direction.
    segment : int, optional
        Neighbouring steps of the look-back folded into one step of the network.
    scaler : {"window", "series", None}, default "window"
        "series": each series by its mean and deviation over the rows of fit. "window": besides,
        each window by its own. None: values as they are.
    """

    seasonality: int | None = None
    hidden_size: int | None = None
    segment: int | None = None
    scaler: str | None = "window"

    if TYPE_CHECKING:  # fitted, and so no parameters
        lookback_: int = field(init=False)
        seasonality_: int = field(init=False)
        hidden_size_: int = field(init=False)
        segment_: int = field(init=False)
        phases_: CalendarPhases | None = field(init=False)
        scale_: Scale = field(init=False)
    # of the end of the history, one array a network, where a stream keeps them
    _encodings = None
    # parameters that not every subclass has
    training = "windows"
    calendar = False

    _lookback_rule = staticmethod(choose_lookback)  # of panel, horizon and season
    _segment_rule = staticmethod(choose_segment)  # of season and look-back

    @abstractmethod
    def _network(self, shape: dict[str, Any], plan: Plan) -> Any:
        """A network of this shape; its parameters are filled afterwards."""

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("seasonality", "segment"):
            check_int(owner, name, getattr(self, name), none=True)
        # chosen by the number of windows where that is the default
        check_int(owner, "hidden_size", self.hidden_size, none=type(self).hidden_size is None)

    # -- fit ---------------------------------------------------------------------------------------

    def _plan(self, panel: Panel) -> Plan:
        """Choose look-back, season and phases."""
        season = choose_seasonality(panel) if self.seasonality is None else self.seasonality
        phases = choose_phases(panel, season) if self.calendar else None
        lookback = self.lookback or self._lookback_rule(panel, self.horizon, season)
        return self._split(panel, lookback, season, phases)

    def _split(
        self, panel: Panel, lookback: int, season: int, phases: CalendarPhases | None
    ) -> Plan:
        """Split the windows of every series in time: its last rows validate, as far as one training
        window is left before them.
        """
        horizon, lengths = self.horizon, panel.lengths
        held = np.maximum(np.ceil(self.validation_fraction * lengths).astype(np.int64), horizon)
        full = lengths >= lookback + horizon
        before = np.where(full, lookback, np.minimum(lookback, lengths // 2))
        held = np.minimum(held, lengths - (before + horizon))
        held = np.where((held >= horizon) & (self.validation_fraction > 0), held, 0)
        held = panel.observed_only(held)
        train = WindowIndex.training(lengths, held, lookback, horizon)
        if not len(train):
            raise self._too_short(panel, horizon + 1)
        validation = WindowIndex.between(lengths - held, lengths, horizon)
        return Plan(lookback, season, phases, train, validation)

    def _job(self, panel: Panel, goes_on: bool) -> Job:
        chosen = (self.horizon, self.lookback, self.seasonality, self.calendar)
        key = (type(self), *chosen, self.validation_fraction)
        if goes_on:
            plan = self._split(panel, self.lookback_, self.seasonality_, self.phases_)
            scale, width = self.scale_, self.hidden_size_
        else:
            plan = panel.cached(("plan", *key), lambda: self._plan(panel))
            per_series = self.scaler is not None
            scale = panel.cached(("scale", per_series), lambda: Scale.of(panel, per_series))
            # few windows are learnt by heart by a wider network (benchmarks/RESULTS.md)
            width = self.hidden_size or (64 if len(plan.train) >= _MANY else 32)
        segment, output = self._segment(plan), self._make_output()
        batch_size = self.batch_size or min(max(len(plan.train) // 1000, 32), 128)
        device = resolve_device(type(self).__name__, self.device)
        source = partial(
            WindowSource,
            panel,
            scale=scale,
            phases=plan.phases,
            horizon=self.horizon,
            batch_size=batch_size,
            max_steps=_MAX_STEPS,
            device=device,
        )

        def all_windows() -> WindowSource:
            return source(plan.train, lookback=plan.lookback)

        rows = ("windows", *key, self.scaler is None, batch_size, str(device))
        windows = all_windows() if goes_on else panel.cached(rows, all_windows)
        held = source(plan.validation, lookback=plan.lookback, like=windows)
        batches, loss = windows, partial(_window_loss, output)
        if self.training == "dense":
            extra = _stretch(plan, segment)
            batches = source(
                plan.train.later(np.minimum(extra, np.maximum(plan.train.counts - 1, 0))),
                lookback=plan.lookback + extra,
                like=windows,
                offsets=np.arange(-extra, 1, segment),
            )
            loss = partial(_stretch_loss, output, plan.lookback, segment)
        n_phases = plan.phases.size if plan.phases else 0
        shape = self._shape(panel, output, width, n_phases)

        def prime(network: Any) -> None:
            first_effect(network, panel, scale, plan.train.stops(self.horizon), plan.season)
            network.prime(
                (Inputs(*(part.cpu() for part in batch.inputs)), batch.truth.cpu())
                for _, batch in windows.evenly(512, windows.batch_size)
            )

        learner = self._learner(
            network=lambda: self._network(
                {**shape, "lookback": plan.lookback, "segment": segment}, plan
            ),
            source=batches,
            loss=loss,
            validation=[
                (batch, float(len(batch.truth)))
                for _, batch in held.evenly(_VALIDATION_WINDOWS, batches.batch_size)
            ],
            validation_loss=partial(_window_loss, output),
            prime=prime,
            threads=useful_threads(batch_size, width),
            device=device,
        )
        fitted = {
            "lookback_": plan.lookback,
            "seasonality_": plan.season,
            "segment_": segment,
            "hidden_size_": width,
            "batch_size_": batch_size,
            "phases_": plan.phases,
            "scale_": scale,
            "output_": output,
            "n_untrained_": int((plan.train.counts == 0).sum()),
        }
        return Job(learner, fitted, plan.validation if len(plan.validation) else plan.train)

    def _segment(self, plan: Plan) -> int:
        """Steps folded into one: given, or chosen by the class' rule."""
        if self.segment is None:
            return self._segment_rule(plan.season, plan.lookback)
        if self.segment > plan.lookback:
            raise DataError(
                f"{type(self).__name__}: segment must be at most the look-back, {plan.lookback}. "
                f"Got {self.segment}"
            )
        return self.segment

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        return {"scale_": self.scale_.on(history) if fresh else self.scale_.following(history)}

    # -- forecasts ---------------------------------------------------------------------------------

    def _error_scale(self, series: np.ndarray) -> np.ndarray:
        return self.scale_.target_scale[series]

    def _network_says(self, member, history, series, origins, n_steps, known):
        network = self.networks_[member]
        encoded = None if self._encodings is None else self._encodings[member]
        size = max(len(series), 1) if encoded is not None else _at_once(network)
        parts = [
            self._roll(network, history, series[some], origins[some], n_steps, known[some], encoded)
            for some in (slice(k, k + size) for k in range(0, max(len(series), 1), size))
        ]
        return Forecast.joined(parts)

    def _inputs(self, network, history, series, origins) -> Inputs:
        """Windows before some origins, as a network reads them."""
        weight = next(network.parameters())
        batch = gather(history, series, origins, network.spec.lookback, 0)
        static = static_inputs(history, self.scale_, self.phases_, series, origins)
        return to_inputs(batch, self.scale_, static, weight.device, weight.dtype).inputs

    @torch.inference_mode()
    def _roll(self, network, history, series, origins, n_steps, known, encoded=None) -> Forecast:
        """Blocks of ``horizon`` steps, each from a window that ends with the block before it, and
        the first perhaps from one that was ``encoded`` elsewhere.

        What is fed back is the point forecast without the covariates' effect, so that a row's
        forecast depends on its own covariates alone.
        """
        weight = next(network.parameters())

        def tensor(values: Any) -> Tensor:
            return torch.as_tensor(values).to(device=weight.device, dtype=weight.dtype)

        series_loc, series_scale = (
            torch.as_tensor(part[series])[:, None]
            for part in (self.scale_.target_loc, self.scale_.target_scale)
        )
        horizon, lookback = network.spec.horizon, network.spec.lookback
        ahead = tensor(self.scale_.known(known))
        inputs = self._inputs(network, history, series, origins)
        residual, past, static = network.take_effect(inputs), inputs.past, inputs.static
        blocks: list[Forecast] = []
        for start in range(0, n_steps, horizon):
            if start:
                at = origins + start
                static = tensor(static_inputs(history, self.scale_, self.phases_, series, at))
            window = network.normalise(residual)
            if encoded is not None and start == 0:
                context = network.with_static(tensor(encoded), static)
            else:
                context = network.context(window, inputs._replace(past=past, static=static))
            raw, anchor = network.decode(window, context)
            block = ahead[:, start : start + horizon]
            shown = (*network.with_known(raw, anchor, context, block), window.scale)
            numbers, location, scale = (part.cpu().double() for part in shown)
            location, scale = series_loc + series_scale * location, series_scale * scale
            blocks.append(self.output_.forecast(numbers, location, scale))
            if start + horizon < n_steps:
                plain = self.output_.forecast(raw, anchor, window.scale).point
                residual = torch.cat([residual, plain], 1)[:, -lookback:]
                unknown = past.new_full((len(past), horizon, past.shape[-1]), torch.nan)
                past = torch.cat([past, unknown], 1)[:, -lookback:]
        return Forecast.joined(blocks, 1).widened(horizon)

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
    raw, location, scale = network(batch.inputs)
    return output.loss(output.forecast(raw, location, scale), batch.truth)


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


def _stretch(plan: Plan, segment: int) -> int:
    """Rows by which a stretch of dense training is longer than a window: at most half a look-back,
    as far as the training windows of the typical (median) series reach, in whole segments.
    """
    room = int(np.median(plan.train.counts[plan.train.counts > 0])) - 1
    return max(min(plan.lookback // 2, room), 0) // segment * segment


def _at_once(network: WindowNetwork) -> int:
    """Windows that are forecast in one pass: bounds the memory of it."""
    each = network.spec.lookback * network.spec.hidden_size
    return min(max(_CHUNK_NUMBERS // each, 16), 512)
