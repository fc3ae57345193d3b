"""Training: the loop, its callbacks and its source of batches."""

from rnnforecast.training.callbacks import BestWeights, ProgressBar
from rnnforecast.training.loop import (
    SCHEDULES,
    BatchSource,
    Callback,
    History,
    Settings,
    train,
)
from rnnforecast.training.optimizers import OPTIMIZERS

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "BatchSource",
    "BestWeights",
    "Callback",
    "History",
    "ProgressBar",
    "Settings",
    "train",
]
