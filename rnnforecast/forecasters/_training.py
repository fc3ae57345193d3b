"""From a forecaster's parameters and a panel to a trained network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._model import NetworkModel
from rnnforecast.forecasters._plan import Plan
from rnnforecast.nn import Inputs, WindowNetwork, initialise, set_generator, unfold
from rnnforecast.outputs import Output, PointOutput, QuantileOutput
from rnnforecast.training import BestWeights, Callback, History, ProgressBar, Settings, train
from rnnforecast.training.source import Batch, Units, WindowSource, measure_units

__all__ = ["Run", "prepare", "resolve_device"]

_MAX_STEPS = 100  # batches in an epoch
_VALIDATION_WINDOWS = 1024
_CALIBRATION_WINDOWS = 4096


def resolve_device(owner: str, device: str) -> torch.device:
    """The device named, or for "auto" the first of CUDA, MPS and CPU that is there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{owner}: device must be 'auto', 'cpu', 'cuda' or 'mps'. Got {device!r}"
        ) from error
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    if not there.get(chosen.type, chosen.type == "mps" and torch.backends.mps.is_available()):
        raise DataError(f"{owner}: device {device!r} is not available here: use device='auto'")
    return chosen


def seed_of(random_state: Any) -> int:
    """A seed from an int or RandomState; from the system, not from NumPy's global state, for
    None.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


@dataclass
class Run:
    """One training: network, data and randomness."""

    network: WindowNetwork
    output: Output
    units: Units
    source: WindowSource
    validation: WindowSource
    settings: Settings
    generator: torch.Generator
    name: str
    patience: int

    def loss(self, network: Any, batch: Batch) -> Tensor:
        """Loss of one batch of windows, or of stretches of them, in series units."""
        spec = network.spec
        if batch.inputs.targets.shape[1] == spec.lookback:
            return self.output.loss(self._forecast(network(batch.inputs)), batch.truth)
        batch = _dense(batch, spec.lookback, spec)
        return self.output.loss(self._forecast(network.forward_dense(batch.inputs)), batch.truth)

    def _forecast(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        raw, location, scale = parts
        return self.output.forecast(raw) * scale[..., None] + location[..., None]

    def fit(self, max_epochs: int, early_stopping: bool, verbose: int) -> History:
        """Train, and leave the best weights in the network."""
        settings = replace(self.settings, max_epochs=max_epochs)
        validate = None
        callbacks: list[Callback] = []
        if len(self.validation.windows):
            held = [
                b for _, b in self.validation.evenly(_VALIDATION_WINDOWS, self.source.batch_size)
            ]

            def validate(network):
                losses = [self.loss(network, b).item() * len(b.truth) for b in held]
                return sum(losses) / sum(len(b.truth) for b in held)

            if early_stopping:
                callbacks.append(BestWeights(self.patience))
        if verbose:
            callbacks.append(ProgressBar(self.name, max_epochs * len(self.source)))
        set_generator(self.network, _noise_generator(self.generator, self.source.device))
        try:
            return train(
                self.network,
                self.source,
                self.loss,
                settings,
                self.generator,
                validate,
                callbacks,
            )
        finally:
            set_generator(self.network, None)

    @torch.inference_mode()
    def calibrate(self) -> np.ndarray:
        """Errors at rolling origins over rows held out (or trained on, if none were), in series
        units.
        """
        source = self.validation if len(self.validation.windows) else self.source
        errors = []
        for _, batch in source.evenly(_CALIBRATION_WINDOWS, self.source.batch_size):
            point = self.output.point(self._forecast(self.network(batch.inputs)))
            errors.append((batch.truth - point).cpu().numpy().astype(np.float64))
        return np.concatenate(errors)

    def model(self) -> NetworkModel:
        """The trained network, ready to forecast."""
        network = self.network.eval().requires_grad_(False)
        if self.source.device.type == "cpu":
            network = network.double()
        return NetworkModel(network, self.output, self.units)


def prepare(
    forecaster: Any,
    panel: Panel,
    plan: Plan,
    warm: WindowNetwork | None = None,
    units: Units | None = None,
) -> Run:
    """Build the network and its data source from a forecaster's parameters.

    Parameters
    ----------
    forecaster : DeepRNNForecaster
    panel : Panel
    plan : Plan
    warm : ForecastNetwork, optional
        Start from its weights.
    units : Units, optional
        Keep these; measured from the panel if None.

    Raises
    ------
    DataError
        If ``warm`` is of another shape, or the device is not there.
    """
    owner = type(forecaster).__name__
    device = resolve_device(owner, forecaster.device)
    output: Output = PointOutput(forecaster.loss)
    if forecaster.quantiles is not None:
        output = QuantileOutput(tuple(sorted({0.5, *map(float, forecaster.quantiles)})))
    if units is None:
        units = measure_units(panel, per_series=forecaster.scaler is not None)
    generator = torch.Generator(device="cpu").manual_seed(seed_of(forecaster.random_state))

    def source(windows, lookback=plan.lookback):
        return WindowSource(
            panel,
            windows,
            units,
            lookback,
            forecaster.horizon,
            forecaster.batch_size,
            _MAX_STEPS,
            device,
        )

    training = source(plan.train)
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        network = forecaster._network(panel, plan, output)
    network = network.to_empty(device="cpu")
    if warm is None:
        initialise(network, generator)
        network.prime(_to_cpu(b) for _, b in training.evenly(512, training.batch_size))
    else:
        if warm.spec != network.spec:
            raise DataError(
                f"{owner}: warm_start needs the same architecture, look-back and columns as the "
                f"fit before it; fit a clone instead"
            )
        network.load_state_dict({k: v.float() for k, v in warm.state_dict().items()})
    if forecaster.training == "dense":
        extra = _extra(network.spec, plan)
        training = source(plan.train.later(extra), plan.lookback + extra)
    settings = Settings(
        max_epochs=forecaster.max_epochs,
        lr=forecaster.lr,
        optimizer=forecaster.optimizer,
        weight_decay=forecaster.weight_decay,
        gradient_clip=forecaster.gradient_clip,
        lr_schedule=forecaster.lr_schedule,
    )
    return Run(
        network.to(device),
        output,
        units,
        training,
        source(plan.validation),
        settings,
        generator,
        owner,
        forecaster.patience,
    )


def _extra(spec: Any, plan: Plan) -> int:
    """Rows by which a stretch of dense training is longer than a window: at most half a look-back,
    as far as the series with the fewest training windows reaches, in whole segments.
    """
    room = int(plan.train.counts.min()) - 1
    return max(min(spec.lookback // 2, room), 0) // spec.segment * spec.segment


def _dense(batch: Batch, lookback: int, spec: Any) -> Batch:
    """A batch of stretches as ``forward_dense`` reads it, with the truth of every window."""
    inputs = batch.inputs
    future = torch.cat([inputs.known[:, lookback:], inputs.future_known], 1)
    truth = torch.cat([inputs.targets[:, lookback:], batch.truth], 1)
    return Batch(inputs._replace(future_known=future), unfold(truth, spec.horizon, spec.segment))


def _to_cpu(batch: Batch) -> tuple[Inputs, Tensor]:
    return Inputs(*(t.cpu() for t in batch.inputs)), batch.truth.cpu()


def _noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Where dropout draws from: the device itself (the order of batches is drawn on the CPU)."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device=device).manual_seed(generator.initial_seed())
