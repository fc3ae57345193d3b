"""The training loop: a function that asks a source for batches and a loss for a scalar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rnnforecast.exceptions import DivergedError
from rnnforecast.training.optimizers import OPTIMIZERS

__all__ = ["SCHEDULES", "BatchSource", "Callback", "History", "Settings", "train"]

_WARM_UP = 0.05  # share of all steps


def _cosine(progress: float) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017, eq. 5, one cycle)."""
    if progress < _WARM_UP:
        return 0.1 + 0.9 * progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


# name -> factor of the learning rate at a progress in [0, 1)
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": _cosine,
    "linear": lambda progress: 1.0 - progress,
    "step": lambda progress: 0.1 ** math.floor(3 * progress),
}


class BatchSource(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Batches in one epoch."""

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """The batches of one epoch, in an order drawn from ``generator``."""


@dataclass(frozen=True)
class Settings:
    """How to train."""

    max_epochs: int
    lr: float
    optimizer: str = "adam"
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    lr_schedule: str = "constant"
    ema_decay: float | None = None
    l1: float = 0.0
    momentum: float = 0.9
    clip_value: float | None = None
    max_norm: float | None = None


@dataclass
class History:
    """What training was like, one entry an epoch."""

    train_loss: list[float] = field(default_factory=list)  # mean of the epoch's batches
    val_loss: list[float] = field(default_factory=list)  # NaN without validation windows
    grad_norm: list[float] = field(default_factory=list)  # mean, before clipping
    lr: list[float] = field(default_factory=list)  # at the end of the epoch
    seconds: list[float] = field(default_factory=list)  # since the start of training
    best_epoch: int = 0  # whose weights were kept; 0: those before training
    stop_reason: str = ""

    def __len__(self) -> int:
        return len(self.train_loss)

    def frame(self):
        """The curves as a DataFrame indexed by epoch."""
        import pandas as pd

        names = ["train_loss", "val_loss", "grad_norm", "lr", "seconds"]
        index = pd.RangeIndex(1, len(self) + 1, name="epoch")
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=index)


class Callback:
    """What may watch training; each method does nothing unless overridden."""

    def on_start(self, network: nn.Module, val_loss: float) -> None:
        """Before the first epoch; the validation loss of the first weights is NaN without data."""

    def on_batch(self, step: int) -> None:
        """After each optimiser step."""

    def on_epoch(self, network: nn.Module, history: History) -> str | None:
        """After each epoch; a returned string stops training and is the reason."""
        return None

    def on_end(self, network: nn.Module, history: History) -> None:
        """After the last epoch, also if training was interrupted by an error."""


def train(
    network: nn.Module,
    batches: BatchSource,
    loss: Callable[[nn.Module, Any], Tensor],
    settings: Settings,
    generator: torch.Generator,
    validate: Callable[[nn.Module], float] | None = None,
    callbacks: Iterable[Callback] = (),
) -> History:
    """Train ``network`` in place; the order of batches is drawn from ``generator``.

    Raises
    ------
    DivergedError
        If an epoch's loss, gradient norm or validation loss is not finite.
    """
    history = History()
    parameters = [p for p in network.parameters() if p.requires_grad]
    names = ("weight_decay", "l1", "momentum", "clip_value", "max_norm")
    options = {name: getattr(settings, name) for name in names}
    optimizer = OPTIMIZERS[settings.optimizer](parameters, **options)
    average = WeightAverage(optimizer.values, settings.ema_decay)
    watchers = [average, *callbacks]
    schedule = SCHEDULES[settings.lr_schedule]
    limit = math.inf if settings.gradient_clip is None else settings.gradient_clip
    start = time.perf_counter()
    try:
        network.eval()
        with torch.inference_mode():
            first = math.nan if validate is None else validate(network)
        for watcher in watchers:
            watcher.on_start(network, first)
        for epoch in range(settings.max_epochs):
            network.train()
            losses, norms = [], []  # read once an epoch: no synchronisation a step
            for step, batch in enumerate(batches.epoch(generator)):
                progress = (epoch + step / len(batches)) / settings.max_epochs
                rate = settings.lr * schedule(progress)
                optimizer.zero_grad()
                value = loss(network, batch)
                value.backward()
                norms.append(optimizer.step(rate, limit))
                losses.append(value.detach())
                for watcher in watchers:
                    watcher.on_batch(step)
            history.train_loss.append(torch.stack(losses).mean().item())
            history.grad_norm.append(torch.stack(norms).mean().item())
            history.lr.append(rate)
            network.eval()
            with average.applied():
                with torch.inference_mode():
                    history.val_loss.append(math.nan if validate is None else validate(network))
                history.seconds.append(time.perf_counter() - start)
                history.best_epoch = epoch + 1
                _check_finite(history, settings, validate is not None)
                reasons = [reason for w in watchers if (reason := w.on_epoch(network, history))]
            if reasons:
                history.stop_reason = reasons[0]
                break
        else:
            history.stop_reason = f"max_epochs={settings.max_epochs} reached"
        average.keep()
    finally:
        network.eval()
        optimizer.release()
        for watcher in watchers:
            watcher.on_end(network, history)
    return history


class WeightAverage(Callback):
    """Exponential moving average of the weights (Polyak & Juditsky 1992, in the form of Tarvainen &
    Valpola 2017, eq. 2): what is validated and kept, while training goes on from the last ones.
    Its memory ``decay`` is approached from below in the first steps; None averages nothing.
    """

    def __init__(self, values: list[Tensor], decay: float | None):
        self._values = [] if decay is None else [value.detach() for value in values]
        self._average = [value.clone() for value in self._values]
        self._decay, self._steps = decay or 0.0, 0

    def on_batch(self, step: int) -> None:
        if self._values:
            self._steps += 1
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            torch._foreach_lerp_(self._average, self._values, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in the place of the weights, for as long as the context lasts."""
        last = [value.clone() for value in self._values]
        self.keep()
        try:
            yield
        finally:
            _copy(self._values, last)

    def keep(self) -> None:
        """Leave the average in the place of the weights."""
        _copy(self._values, self._average)


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:  # torch refuses empty lists
        torch._foreach_copy_(to, values)


def _check_finite(history: History, settings: Settings, validated: bool) -> None:
    watched = {"training loss": history.train_loss[-1], "gradient norm": history.grad_norm[-1]}
    if validated:
        watched["validation loss"] = history.val_loss[-1]
    for name, value in watched.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"the {name} is {value} in epoch {len(history)}: use a smaller lr "
                f"(now {settings.lr:g}) or gradient_clip (now {settings.gradient_clip})"
            )
