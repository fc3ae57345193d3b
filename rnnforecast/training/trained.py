"""What every estimator that trains networks has: its parameters, and a learner made of them."""

from __future__ import annotations

import copy
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import BaseEstimator

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.exceptions import DataError
from rnnforecast.nn.cells import cell_class
from rnnforecast.parameters import estimator
from rnnforecast.training.learner import PRECISIONS, Learner, resolve_precision
from rnnforecast.training.loop import SCHEDULES, History, Settings
from rnnforecast.training.optimizers import OPTIMIZERS

__all__ = ["TrainedEstimator"]


@estimator
class TrainedEstimator(BaseEstimator):
    """Base of the estimators that train networks, whatever these read.

    Parameters
    ----------
    cell : str or a subclass of Cell, default "lstm"
        Recurrent cell; see :mod:`rnnforecast.nn.cells` for registering one.
    dropout : float, default 0.0
        Share of hidden units dropped between layers in training, in [0, 1).
    max_epochs : int, default 30
        Passes over the training data.
    batch_size : int, optional
        Sequences of a step; chosen from their number if None.
    lr : float, default 3e-3
    lr_schedule : {"cosine", "constant", "linear", "step"}, default "cosine"
        Over ``max_epochs``; "cosine" has a short warm-up.
    optimizer : {"adam", "adamw", "rmsprop", "sgd"}, default "adam"
    weight_decay : float, default 0.0
        L2 penalty.
    l1 : float, default 0.0
        L1 penalty.
    momentum : float, default 0.9
        Of ``optimizer="sgd"``, in [0, 1).
    gradient_clip : float or None, default 1.0
        Largest norm of the gradient.
    clip_value : float, optional
        Largest size of one number of the gradient, applied before ``gradient_clip``.
    max_norm : float, optional
        Largest norm of the weights that one unit reads by.
    ema_decay : float or None, default 0.99
        Memory of the moving average of the weights that is validated and kept; None keeps the
        weights themselves.
    early_stopping : bool, default True
        Stop after ``patience`` epochs without a better loss on the validation data, and keep the
        best weights.
    validation_fraction : float, default 0.1
        Share of the data that no weight is trained on.
    patience : int, default 8
    n_members : int, default 1
        Networks trained from other random starts and in other orders of the data, whose answers are
        averaged; the first is the one that ``n_members=1`` trains.
    precision : {"float32", "bf16"}, default "float32"
        Of the recurrent layers' products in training; everything else stays float32. "bf16" wants a
        CPU with AVX512-BF16 or AMX, or a CUDA device, and trains by torch's own layers.
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    n_jobs : int, optional
        Members trained at the same time, in threads; None: as many as torch has threads for. The
        result does not depend on it.
    verbose : int, default 0
        1 shows a progress bar.
    """

    cell: Any = "lstm"
    dropout: float = 0.0
    max_epochs: int = 30
    batch_size: int | None = None
    lr: float = 3e-3
    lr_schedule: str = "cosine"
    optimizer: str = "adam"
    weight_decay: float = 0.0
    l1: float = 0.0
    momentum: float = 0.9
    gradient_clip: float | None = 1.0
    clip_value: float | None = None
    max_norm: float | None = None
    ema_decay: float | None = 0.99
    early_stopping: bool = True
    validation_fraction: float = 0.1
    patience: int = 8
    n_members: int = 1
    precision: str = "float32"
    device: str = "auto"
    random_state: Any = None
    n_jobs: int | None = None
    verbose: int = 0

    if TYPE_CHECKING:  # fitted, and so no parameters
        networks_: list[Any] = field(init=False)
        histories_: list[History] = field(init=False)
        n_epochs_: int = field(init=False)

    def _check_training(self) -> None:
        """Raise DataError for parameters that nothing can be trained with."""
        owner = type(self).__name__
        check_int(owner, "batch_size", self.batch_size, none=True)
        check_bool(owner, "early_stopping", self.early_stopping)
        for name in ("max_epochs", "patience", "n_members"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "dropout", self.dropout, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        for name in ("weight_decay", "l1"):
            check_real(owner, name, getattr(self, name), 0, closed="low")
        check_real(owner, "momentum", self.momentum, 0, 1, closed="low")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        for name in ("clip_value", "max_norm"):
            check_real(owner, name, getattr(self, name), 0, closed="neither", none=True)
        check_real(owner, "ema_decay", self.ema_decay, 0, 1, closed="low", none=True)
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        cell_class(self.cell, owner)
        check_int(owner, "n_jobs", self.n_jobs, minimum=-1, none=True)
        if self.n_jobs == 0:
            raise DataError(f"{owner}: n_jobs must be -1, positive or None. Got 0")

    def _learner(self, **parts: Any) -> Learner:
        """A learner with this estimator's parameters, and what it trains on."""
        owner = type(self).__name__
        settings = {each.name: getattr(self, each.name) for each in fields(Settings)}
        options: dict[str, Any] = {
            "settings": Settings(**settings),
            "patience": self.patience if self.early_stopping else None,
            "precision": resolve_precision(owner, self.precision, parts["device"]),
            "name": owner,
        }
        for name in ("n_members", "n_jobs", "random_state", "verbose"):
            options[name] = getattr(self, name)
        return Learner(**options, **parts)

    def _train(self, learner: Learner, warm: Any = ()) -> dict[str, Any]:
        """Train every member: the fitted attributes that come of it."""
        networks, histories = map(list, zip(*learner.fit(warm), strict=True))
        return {
            "networks_": [network.eval().requires_grad_(False) for network in networks],
            "histories_": histories,
            "history_": histories[0],
            "n_epochs_": len(histories[0]),
        }

    @property
    def network_(self) -> Any:
        """The trained torch module of the first member."""
        if "networks_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no network_ before fit")
        return self.networks_[0]

    def __getstate__(self):
        """Pickles hold the networks on the CPU, so that a machine without a GPU can load them."""
        state = super().__getstate__().copy()
        if "networks_" in state:
            state["networks_"] = [on_cpu(network) for network in state["networks_"]]
        return state


def for_answers(network: Any) -> Any:
    """On a CPU a network answers in float64: then a row's answer is the same to 1e-12 whatever
    rows stand beside it in a batch, which float32 matrix products do not give.
    """
    return network.double() if next(network.parameters()).device.type == "cpu" else network


def on_cpu(network: Any) -> Any:
    """A network itself where it is on the CPU, else a copy there."""
    first = next(network.parameters(), torch.empty(0))
    return network if first.device.type == "cpu" else copy.deepcopy(network).cpu()
