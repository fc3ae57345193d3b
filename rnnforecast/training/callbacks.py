"""Early stopping with the best weights, and the progress bar."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from rnnforecast.training.loop import Callback, History

__all__ = ["BestWeights", "ProgressBar"]


class BestWeights(Callback):
    """Keep the weights with the smallest validation loss, those before training among them; stop
    after ``patience`` epochs without a new best.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self._best = math.inf
        self._epoch = 0
        self._weights: dict[str, torch.Tensor] | None = None

    def on_start(self, network: nn.Module, val_loss: float) -> None:
        self._keep(network, val_loss, 0)

    def _keep(self, network: nn.Module, val_loss: float, epoch: int) -> None:
        if val_loss < self._best:
            self._best, self._epoch = val_loss, epoch
            self._weights = {name: v.clone() for name, v in network.state_dict().items()}

    def on_epoch(self, network: nn.Module, history: History) -> str | None:
        self._keep(network, history.val_loss[-1], len(history))
        if len(history) - self._epoch >= self.patience:
            return f"no better validation loss for {self.patience} epochs"
        return None

    def on_end(self, network: nn.Module, history: History) -> None:
        if self._weights is not None:
            network.load_state_dict(self._weights)
            history.best_epoch = self._epoch


class ProgressBar(Callback):
    """A tqdm bar over the steps of all epochs, with the losses of the last one."""

    def __init__(self, name: str, n_steps: int):
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(total=n_steps, desc=name, unit="step", mininterval=0.3)

    def on_batch(self, step: int) -> None:
        self._bar.update()

    def on_epoch(self, network: nn.Module, history: History) -> str | None:
        self._bar.set_postfix(
            epoch=len(history),
            train=f"{history.train_loss[-1]:.4f}",
            val=f"{history.val_loss[-1]:.4f}",
            refresh=False,
        )
        return None

    def on_end(self, network: nn.Module, history: History) -> None:
        self._bar.close()
