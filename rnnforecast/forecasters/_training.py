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
from rnnforecast.nn import ForecastNetwork, NetworkSpec, initialise, set_generator
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

    network: ForecastNetwork
    output: Output
    units: Units
    source: WindowSource
    validation: WindowSource
    settings: Settings
    generator: torch.Generator
    name: str
    patience: int

    def loss(self, network: Any, batch: Batch) -> Tensor:
        """Loss of one batch, in series units."""
        return self.output.loss(self._forecast(network, batch), batch.truth)

    def _forecast(self, network: Any, batch: Batch) -> Tensor:
        raw, location, scale = network(batch.inputs)
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
            point = self.output.point(self._forecast(self.network, batch))
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
    warm: ForecastNetwork | None = None,
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
    spec = _spec(forecaster, panel, plan, output)
    if units is None:
        units = measure_units(panel, per_series=forecaster.scaler is not None)
    generator = torch.Generator(device="cpu").manual_seed(seed_of(forecaster.random_state))

    def source(windows):
        return WindowSource(
            panel,
            windows,
            units,
            plan.lookback,
            forecaster.horizon,
            forecaster.batch_size,
            _MAX_STEPS,
            device,
        )

    training = source(plan.train)
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        network = ForecastNetwork(spec)
    network = network.to_empty(device="cpu")
    if warm is None:
        initialise(network, generator)
        _start_at_best_anchor(network, training)
    else:
        if warm.spec != spec:
            raise DataError(
                f"{owner}: warm_start needs the same architecture, look-back and columns as the "
                f"fit before it; fit a clone instead"
            )
        network.load_state_dict({k: v.float() for k, v in warm.state_dict().items()})
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


def _spec(forecaster: Any, panel: Panel, plan: Plan, output: Output) -> NetworkSpec:
    return NetworkSpec(
        n_targets=panel.targets.shape[1],
        n_past=panel.past.shape[1],
        n_known=panel.known.shape[1],
        n_static=panel.static.shape[1],
        lookback=plan.lookback,
        horizon=forecaster.horizon,
        season=plan.season,
        n_params=output.n_params,
        cell=forecaster.cell,
        hidden_size=forecaster.hidden_size,
        n_layers=forecaster.n_layers,
        bidirectional=forecaster.bidirectional,
        residual=forecaster.residual,
        dropout=forecaster.dropout,
        normalise=forecaster.scaler == "window",
    )


@torch.no_grad()
def _start_at_best_anchor(network: ForecastNetwork, source: WindowSource) -> None:
    """Begin with the anchor that errs least at each step over training windows."""
    total = torch.zeros_like(network.anchor_logits)
    for _, batch in source.evenly(512, source.batch_size):
        batch = Batch(*_to_cpu(batch))
        anchors = network.normalise(batch.inputs.targets).anchors
        error = (anchors - batch.truth[..., None]).abs()
        total += torch.nan_to_num(error).sum((0, 2))
    best = total.argmin(-1)
    network.anchor_logits[torch.arange(len(best)), best] = 4.0


def _to_cpu(batch: Batch) -> tuple:
    return type(batch.inputs)(*(t.cpu() for t in batch.inputs)), batch.truth.cpu()


def _noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Where dropout draws from: the device itself (the order of batches is drawn on the CPU)."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device=device).manual_seed(generator.initial_seed())
