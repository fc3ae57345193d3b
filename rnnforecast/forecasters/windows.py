"""Forecasters whose networks read windows: which windows train, and forecasts that roll on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

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
from rnnforecast.forecasters.parameters import estimator
from rnnforecast.nn import Inputs, WindowNetwork, unfold
from rnnforecast.outputs import Forecast, Output
from rnnforecast.training import resolve_device, useful_threads
from rnnforecast.training.source import Batch, WindowSource, static_inputs, to_inputs

if TYPE_CHECKING:
    from rnnforecast.forecasters.streaming import ForecastStream

__all__ = ["Plan", "WindowForecaster", "roll"]

_MAX_STEPS = 100  # batches in an epoch
_VALIDATION_WINDOWS = 1024
_CHUNK_NUMBERS = 1 << 22  # hidden states in one pass: bounds the memory of a forecast


@dataclass(frozen=True)
class Plan:
    """What a fit will do.

    Attributes
    ----------
    lookback, season : int
    phases : CalendarPhases or None
    train, validation : WindowIndex
        Validation windows forecast only the last rows of each series, training windows none of
        them.
    key : tuple
        What the choices depend on beside the panel.
    """

    lookback: int
    season: int
    phases: CalendarPhases | None
    train: WindowIndex
    validation: WindowIndex
    key: tuple


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
        batch_size_: int = field(init=False)
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
    def _network(self, panel: Panel, plan: Plan, width: int, segment: int, output: Output) -> Any:
        """A network of the right shape; its parameters are filled afterwards."""

    def _width(self, n_windows: int) -> int:
        """Hidden units: given, or chosen by the number of training windows."""
        assert self.hidden_size is not None
        return self.hidden_size

    def _check_params(self) -> None:
        super()._check_params()
        for name in ("seasonality", "segment"):
            check_int(type(self).__name__, name, getattr(self, name), none=True)

    # -- fit ---------------------------------------------------------------------------------------

    def _plan(self, panel: Panel, goes_on: bool) -> Plan:
        """Choose look-back, season and phases, and split the windows of every series in time."""
        lookback = self.lookback_ if goes_on else self.lookback
        season = self.seasonality_ if goes_on else self.seasonality
        key = (type(self), self.horizon, lookback, season, self.calendar, self.validation_fraction)
        if goes_on:
            return self._new_plan(panel, lookback, season, self.phases_, key)

        def choose() -> Plan:
            chosen = choose_seasonality(panel) if season is None else season
            phases = choose_phases(panel, chosen) if self.calendar else None
            return self._new_plan(panel, lookback, chosen, phases, key)

        return panel.cached(("plan", *key), choose)

    def _new_plan(self, panel, lookback, season, phases, key) -> Plan:
        horizon, lengths = self.horizon, panel.lengths
        if lookback is None:
            lookback = self._lookback_rule(panel, horizon, season)
        # the last rows of a series validate, as far as one training window is left before them
        held = np.maximum(np.ceil(self.validation_fraction * lengths).astype(np.int64), horizon)
        full = lengths >= lookback + horizon
        before = np.where(full, lookback, np.minimum(lookback, lengths // 2))
        held = np.minimum(held, lengths - (before + horizon))
        held = np.where((held >= horizon) & (self.validation_fraction > 0), held, 0)
        held = panel.observed_only(held)
        train = WindowIndex.training(lengths, held, lookback, horizon)
        if not len(train):
            longest = int(np.argmax(lengths))
            n = int(lengths[longest])
            rows = "1 row (n_samples=1)" if n == 1 else f"{n} rows"
            raise DataError(
                f"{type(self).__name__}: {panel.label(longest)} has {rows}; a row to look back on "
                f"and horizon {horizon} need at least {horizon + 1}: use a smaller horizon, or "
                f"more rows"
            )
        validation = WindowIndex.between(lengths - held, lengths, horizon)
        return Plan(lookback, season, phases, train, validation, key)

    def _job(self, panel: Panel, goes_on: bool) -> Job:
        plan = self._plan(panel, goes_on)
        scale = self.scale_ if goes_on else self._measure(panel)
        width = self.hidden_size_ if goes_on else self._width(len(plan.train))
        segment = self._segment(plan)
        output = self._make_output()
        most = min(max(len(plan.train) // 1000, 32), 128)
        batch_size = self.batch_size or most
        device = resolve_device(type(self).__name__, self.device)

        def source(windows, lookback=plan.lookback, like=None, offsets=None):
            return WindowSource(
                panel,
                windows,
                scale,
                plan.phases,
                lookback,
                self.horizon,
                batch_size,
                _MAX_STEPS,
                device,
                like,
                offsets,
            )

        rows = ("windows", *plan.key, self.scaler is None, batch_size, str(device))
        windows = source(plan.train) if goes_on else panel.cached(rows, lambda: source(plan.train))
        batches, loss = windows, cast(Any, _WindowLoss(output))
        held = source(plan.validation, like=windows)
        if self.training == "dense":
            extra = _stretch(plan, segment)
            offsets = np.arange(-extra, 1, segment)
            later = plan.train.later(np.minimum(extra, np.maximum(plan.train.counts - 1, 0)))
            batches = source(later, plan.lookback + extra, windows, offsets)
            loss = _StretchLoss(output, plan.lookback, segment)

        def prime(network: Any) -> None:
            first_effect(network, panel, scale, plan.train.stops(self.horizon), plan.season)
            network.prime(_on_cpu(windows))

        learner = self._learner(
            network=lambda: self._network(panel, plan, width, segment, output),
            source=batches,
            loss=loss,
            validation=[
                (batch, float(len(batch.truth)))
                for _, batch in held.evenly(_VALIDATION_WINDOWS, batches.batch_size)
            ],
            validation_loss=_WindowLoss(output),
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

    def _measure(self, panel: Panel) -> Scale:
        per_series = self.scaler is not None
        return panel.cached(("scale", per_series), lambda: Scale.of(panel, per_series))

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
        if self._encodings is not None:
            inputs = self._inputs(network, history, series, origins)
            return self._roll(
                network, inputs, history, series, origins, n_steps, known, self._encodings[member]
            )
        size = _at_once(network)
        parts = []
        for start in range(0, max(len(series), 1), size):
            some = slice(start, start + size)
            inputs = self._inputs(network, history, series[some], origins[some])
            parts.append(
                self._roll(
                    network, inputs, history, series[some], origins[some], n_steps, known[some]
                )
            )
        return Forecast.joined(parts)

    def _inputs(self, network, history, series, origins) -> Inputs:
        """Windows before some origins, as a network reads them."""
        weight = next(network.parameters())
        batch = gather(history, series, origins, network.spec.lookback, 0)
        static = static_inputs(history, self.scale_, self.phases_, series, origins)
        return to_inputs(batch, self.scale_, static, weight.device, weight.dtype).inputs

    def _roll(
        self, network, inputs, history, series, origins, n_steps, known, encoded=None
    ) -> Forecast:
        """Forecast from windows that were read, or that were even ``encoded`` elsewhere."""
        horizon = network.spec.horizon
        statics = [
            static_inputs(history, self.scale_, self.phases_, series, origins + later)
            for later in range(0, n_steps, horizon)
        ]
        location = self.scale_.target_loc[series][:, None]
        scale = self.scale_.target_scale[series][:, None]
        ahead = self.scale_.known(known)
        forecast = roll(
            network, self.output_, inputs, statics, ahead, location, scale, n_steps, encoded
        )
        return forecast.widened(horizon)

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


@dataclass(frozen=True)
class _WindowLoss:
    """Loss of a batch of windows, in the unit of the series."""

    output: Output

    def __call__(self, network: Any, batch: Batch) -> Tensor:
        raw, location, scale = network(batch.inputs)
        return self.output.loss(self.output.forecast(raw, location, scale), batch.truth)


@dataclass(frozen=True)
class _StretchLoss:
    """Loss of all windows in a batch of stretches, each read in one pass."""

    output: Output
    lookback: int
    segment: int

    def __call__(self, network: Any, batch: Batch) -> Tensor:
        inputs, horizon = batch.inputs, network.spec.horizon
        known = torch.cat([inputs.known[:, self.lookback :], inputs.future_known], 1)
        truth = torch.cat([inputs.targets[:, self.lookback :], batch.truth], 1)
        raw, location, scale = network.forward_dense(inputs._replace(future_known=known))
        forecast = self.output.forecast(raw, location, scale)
        return self.output.loss(forecast, unfold(truth, horizon, self.segment))


def _on_cpu(windows: WindowSource) -> Iterator[tuple[Inputs, Tensor]]:
    for _, batch in windows.evenly(512, windows.batch_size):
        yield Inputs(*(part.cpu() for part in batch.inputs)), batch.truth.cpu()


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


@torch.inference_mode()
def roll(
    network: Any,
    output: Output,
    inputs: Inputs,
    statics: list[np.ndarray],
    known: np.ndarray,
    location: np.ndarray,
    scale: np.ndarray,
    n_steps: int,
    encoded: np.ndarray | None = None,
) -> Forecast:
    """Blocks of ``horizon`` steps, each from a window that ends with the block before it, with the
    static covariates of its own origin.

    What is fed back is the point forecast without the covariates' effect, so that a row's forecast
    depends on its own covariates alone.

    Parameters
    ----------
    network : WindowNetwork
    output : Output
    inputs : Inputs
        Windows on the scale of their series.
    statics : list of ndarray, shape (batch, n_static)
        One for each block.
    known : ndarray, shape (batch, n_steps, n_known)
    location, scale : ndarray, shape (batch, 1, n_targets)
        Of the series, in the unit of the data.
    n_steps : int
    encoded : ndarray, shape (rows, encoder output size), optional
        The windows' encodings; made here if None.

    Returns
    -------
    Forecast, shape (batch, n_steps, n_targets), in the unit of the data, on the CPU
    """
    weight = next(network.parameters())

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(values).to(device=weight.device, dtype=weight.dtype)

    own_location, own_scale = torch.as_tensor(location), torch.as_tensor(scale)

    def in_data_units(raw: Tensor, at: Tensor, size: Tensor) -> Forecast:
        raw, at, size = (part.cpu().double() for part in (raw, at, size))
        return output.forecast(raw, own_location + own_scale * at, own_scale * size)

    horizon, lookback = network.spec.horizon, network.spec.lookback
    ahead = tensor(known)
    residual, past = network.take_effect(inputs), inputs.past
    blocks: list[Forecast] = []
    for start, constants in zip(range(0, n_steps, horizon), statics, strict=True):
        static = tensor(constants)
        window = network.normalise(residual)
        if encoded is not None and start == 0:
            context = network.with_static(tensor(encoded), static)
        else:
            context = network.context(window, inputs._replace(past=past, static=static))
        raw, anchor = network.decode(window, context)
        steps = min(horizon, n_steps - start)
        block = ahead[:, start : start + steps]
        at = anchor[:, :steps]
        if network.spec.n_known:
            at = at + network.effect(block)
        blocks.append(
            in_data_units(network.add_known(raw[:, :steps], context, block), at, window.scale)
        )
        if start + horizon < n_steps:
            plain = output.forecast(raw, anchor, window.scale).point
            residual = torch.cat([residual, plain], 1)[:, -lookback:]
            unknown = past.new_full((len(past), horizon, past.shape[-1]), torch.nan)
            past = torch.cat([past, unknown], 1)[:, -lookback:]
    return Forecast.joined(blocks, 1)
