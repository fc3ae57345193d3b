"""What every estimator that trains networks has: its parameters, and a learner made of them."""

from __future__ import annotations

import copy
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sklearn.base import BaseEstimator

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.exceptions import DataError
from rnnforecast.nn.cells import cell_class
from rnnforecast.parameters import checked, estimator
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
        CPU with AVX512-BF16 or AMX, or a CUDA device, and trains by torch's own layers: 1.2 to 1.9
        times faster than those in float32 for the LSTM, slower for small GRU and vanilla layers,
        and slower than this package's compiled kernels, which are float32 (LSTM, 64 units, batch
        32, one Zen 4 core: 7.0 against 4.3 ms). Not tested on a GPU.
    device : str, default "auto"
        "auto" takes CUDA, then MPS, then the CPU.
    random_state : int, RandomState or None
    n_jobs : int, optional
        Members trained at the same time, in threads; None: as many as torch has threads for. The
        result does not depend on it.
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    history_ : History
        Losses, gradient norms and learning rates by epoch; ``history_.frame()``.
    histories_ : list of History
        Of every member; ``history_`` is the first.
    network_ : Module
        The torch module, of the first member.
    networks_ : list of Module
        Of every member.
    n_epochs_ : int
        Epochs trained.
    """

    cell: Any = "lstm"
    dropout: float = checked(0.0, check_real, low=0, high=1, closed="low")
    max_epochs: int = checked(30, check_int)
    batch_size: int | None = checked(None, check_int, none=True)
    lr: float = checked(3e-3, check_real, low=0, closed="neither")
    lr_schedule: str = checked("cosine", check_choice, choices=SCHEDULES)
    optimizer: str = checked("adam", check_choice, choices=OPTIMIZERS)
    momentum: float = checked(0.9, check_real, low=0, high=1, closed="low")
    weight_decay: float = checked(0.0, check_real, low=0, closed="low")
    l1: float = checked(0.0, check_real, low=0, closed="low")
    max_norm: float | None = checked(None, check_real, low=0, closed="neither", none=True)
    gradient_clip: float | None = checked(1.0, check_real, low=0, closed="high", none=True)
    clip_value: float | None = checked(None, check_real, low=0, closed="neither", none=True)
    ema_decay: float | None = checked(0.99, check_real, low=0, high=1, closed="low", none=True)
    early_stopping: bool = checked(True, check_bool)
    validation_fraction: float = checked(0.1, check_real, low=0, high=1, closed="low")
    patience: int = checked(8, check_int)
    n_members: int = checked(1, check_int)
    precision: str = checked("float32", check_choice, choices=PRECISIONS)
    device: str = "auto"
    random_state: Any = None
    n_jobs: int | None = checked(None, check_int, minimum=-1, none=True)
    verbose: int = 0

    if TYPE_CHECKING:  # fitted, and so no parameters
        networks_: list[Any] = field(init=False)
        histories_: list[History] = field(init=False)
        history_: History = field(init=False)
        n_epochs_: int = field(init=False)

    _checks: ClassVar[dict[str, Any]]  # of values of parameters, as they were declared

    def _check_params(self) -> None:
        """Raise DataError for unusable parameters; extended by subclasses."""
        owner = type(self).__name__
        for name, check in self._checks.items():
            check(owner, name, getattr(self, name))
        cell_class(self.cell, owner)
        if self.n_jobs == 0:
            raise DataError(f"{owner}: n_jobs must be -1, positive or None. Got 0")

    def _learner(self, **parts: Any) -> Learner:
        """A learner with this estimator's parameters, and what it trains on."""
        owner = type(self).__name__
        names = ("n_members", "n_jobs", "random_state", "verbose")
        return Learner(
            settings=Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)}),
            patience=self.patience if self.early_stopping else None,
            precision=resolve_precision(owner, self.precision, parts["device"]),
            name=owner,
            **{name: getattr(self, name) for name in names},
            **parts,
        )

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
