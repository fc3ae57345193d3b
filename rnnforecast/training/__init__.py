"""Training: the loop, its callbacks and its source of batches."""

from rnnforecast.training.callbacks import BestWeights, ProgressBar
from rnnforecast.training.loop import (
    OPTIMIZERS,
    SCHEDULES,
    BatchSource,
    Callback,
    History,
    Settings,
    train,
)

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
