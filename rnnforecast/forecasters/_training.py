"""From a forecaster's parameters and a panel to a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._model import NetworkModel, windows_at_once
from rnnforecast.forecasters._plan import Plan
from rnnforecast.forecasters._shared import derived
from rnnforecast.nn import (
    Inputs,
    WindowNetwork,
    initialise,
    set_generator,
    set_precision,
    unfold,
)
from rnnforecast.outputs import Output, PointOutput, QuantileOutput
from rnnforecast.training import BestWeights, Callback, History, ProgressBar, Settings, train
from rnnforecast.training.threads import at_most_threads, useful_threads
from rnnforecast.training.source import Batch, Units, WindowSource, measure_units

__all__ = [
    "PRECISIONS",
    "Run",
    "choose_batch_size",
    "prepare",
    "resolve_device",
    "seed_of",
    "seeds_of",
]

# name -> type of the recurrent layers' matrix products in training; None is the weights' own
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}

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


def resolve_precision(owner: str, precision: str, device: torch.device) -> torch.dtype | None:
    """The type named, where the device computes in it."""
    dtype = PRECISIONS[precision]
    there = {
        # without these instructions bfloat16 is emulated, slower than float32
        "cpu": lambda: (
            torch.cpu._is_avx512_bf16_supported()
            or torch.backends.cpu.get_cpu_capability() == "AMX"
        ),
        "cuda": torch.cuda.is_bf16_supported,
    }
    if dtype is not None and not there.get(device.type, lambda: False)():
        raise DataError(
            f"{owner}: precision={precision!r} needs a CPU with AVX512-BF16 or AMX, or a CUDA "
            f"device with bfloat16; this {device.type} has none: use precision='float32'"
        )
    return dtype


def choose_batch_size(n_windows: int) -> int:
    """Windows of a step, where the user names none: a thousandth of those that train, at least 32
    and at most 128.
    """
    return min(max(n_windows // 1000, 32), 128)


def seeds_of(random_state: Any, n: int) -> list[int]:
    """Seeds from an int or RandomState; from the system, not from NumPy's global state, for None.

    The first of several is the one that would be drawn alone.
    """
    if random_state is None:
        return [int(seed) for seed in np.random.SeedSequence().generate_state(n)]
    source = check_random_state(random_state)
    return [int(source.randint(2**31 - 1)) for _ in range(n)]


def seed_of(random_state: Any) -> int:
    """One seed; see :func:`seeds_of`."""
    return seeds_of(random_state, 1)[0]


@dataclass
class Run:
    """One training: network, data and randomness.

    ``source`` gives what a step trains on, windows or stretches of them; ``windows`` the training
    windows one by one.
    """

    network: WindowNetwork
    output: Output
    units: Units
    source: WindowSource
    windows: WindowSource
    validation: WindowSource
    settings: Settings
    generator: torch.Generator
    name: str
    patience: int
    precision: torch.dtype | None = None

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

    def fit(
        self,
        max_epochs: int,
        early_stopping: bool,
        verbose: int,
        watchers: Sequence[Callback] = (),
    ) -> History:
        """Train, and leave the best weights in the network.

        Parameters
        ----------
        max_epochs : int
        early_stopping : bool
        verbose : int
            1 shows a progress bar.
        watchers : sequence of Callback

        Returns
        -------
        History
        """
        settings = replace(self.settings, max_epochs=max_epochs)
        validate = None
        callbacks: list[Callback] = list(watchers)
        if len(self.validation.windows):
            held = [
                b for _, b in self.validation.evenly(_VALIDATION_WINDOWS, self.source.batch_size)
            ]
            sizes = torch.tensor([float(len(b.truth)) for b in held], dtype=torch.float64)
            weights = sizes / sizes.sum()

            def validate(network):
                # read once: no synchronisation a batch
                losses = torch.stack([self.loss(network, b) for b in held]).cpu().double()
                return (losses @ weights).item()

            if early_stopping:
                callbacks.append(BestWeights(self.patience))
        if verbose:
            callbacks.append(ProgressBar(self.name, max_epochs * len(self.source)))
        set_generator(self.network, _noise_generator(self.generator, self.source.device))
        set_precision(self.network, self.precision)
        try:
            with at_most_threads(self.threads()):
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
            set_precision(self.network, None)

    def threads(self) -> int:
        """Threads that torch uses for it."""
        return useful_threads(self.source.batch_size, self.network.spec.hidden_size)

    def held_out(self) -> Iterator[Batch]:
        """Windows at rolling origins over rows held out (or trained on, if none were)."""
        source = self.validation if len(self.validation.windows) else self.windows
        for _, batch in source.evenly(_CALIBRATION_WINDOWS, windows_at_once(self.network)):
            yield batch

    @torch.inference_mode()
    def forecast(self, batch: Batch) -> Tensor:
        """Forecasts of a batch in series units: (batch, horizon, n_targets, n_params)."""
        return self._forecast(self.network(batch.inputs))

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
    warm: Sequence[WindowNetwork] = (),
    units: Units | None = None,
) -> list[Run]:
    """Build the networks and their data source from a forecaster's parameters.

    Parameters
    ----------
    forecaster : NeuralForecaster
    panel : Panel
    plan : Plan
    warm : sequence of WindowNetwork
        The first members start from their weights.
    units : Units, optional
        Keep these; measured from the panel if None.

    Returns
    -------
    list of Run
        One for each member; they share everything but network and randomness.

    Raises
    ------
    DataError
        If a network of ``warm`` is of another shape, or the device is not there.
    """
    owner = type(forecaster).__name__
    device = resolve_device(owner, forecaster.device)
    precision = resolve_precision(owner, forecaster.precision, device)
    output: Output = PointOutput(forecaster.loss)
    if forecaster.quantiles is not None:
        output = QuantileOutput(tuple(sorted({0.5, *map(float, forecaster.quantiles)})))
    if units is None:
        scaled = forecaster.scaler is not None
        units = derived(
            panel,
            ("units", scaled, id(plan)),
            lambda: measure_units(panel, scaled, plan.phases),
        )
    plan = replace(plan, phases=units.phases)
    batch_size = forecaster.batch_size or choose_batch_size(len(plan.train))

    def source(windows, lookback=plan.lookback, like=None, offsets=None):
        return WindowSource(
            panel,
            windows,
            units,
            lookback,
            forecaster.horizon,
            batch_size,
            _MAX_STEPS,
            device,
            like,
            offsets,
        )

    windows = derived(
        panel,
        ("windows", id(plan.train), id(units), batch_size, str(device)),
        lambda: source(plan.train),
    )
    seeds = seeds_of(forecaster.random_state, forecaster.n_members)
    generators = [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]
    networks = [
        _start(owner, forecaster._network, panel, plan, output, windows, generator, old)
        for generator, old in zip_longest(generators, warm[: len(seeds)])
    ]
    training = windows
    if forecaster.training == "dense":
        extra = _extra(networks[0].spec, plan)
        offsets = np.arange(-extra, 1, networks[0].spec.segment)
        training = source(plan.train.later(extra), plan.lookback + extra, windows, offsets)
    settings = Settings(
        max_epochs=forecaster.max_epochs,
        lr=forecaster.lr,
        optimizer=forecaster.optimizer,
        weight_decay=forecaster.weight_decay,
        gradient_clip=forecaster.gradient_clip,
        lr_schedule=forecaster.lr_schedule,
        ema_decay=forecaster.ema_decay,
    )
    validation = source(plan.validation, like=windows)
    return [
        Run(
            network.to(device),
            output,
            units,
            training,
            windows,
            validation,
            settings,
            generator,
            owner,
            forecaster.patience,
            precision,
        )
        for network, generator in zip(networks, generators)
    ]


def _start(
    owner: str,
    make: Callable[[Panel, Plan, Output], WindowNetwork],
    panel: Panel,
    plan: Plan,
    output: Output,
    windows: WindowSource,
    generator: torch.Generator,
    warm: WindowNetwork | None,
) -> WindowNetwork:
    """A network on the CPU with its first weights: drawn, or those of ``warm``."""
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        network = make(panel, plan, output)
    network = network.to_empty(device="cpu")
    if warm is None:
        initialise(network, generator)
        network.prime(_to_cpu(b) for _, b in windows.evenly(512, windows.batch_size))
        return network
    if warm.spec != network.spec:
        raise DataError(
            f"{owner}: warm_start needs the same architecture, look-back and columns as the "
            f"fit before it; fit a clone instead"
        )
    network.load_state_dict({k: v.float() for k, v in warm.state_dict().items()})
    return network


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
