"""Training: the learner, the loop, its callbacks and its source of batches."""

from rnnforecast.training.callbacks import BestWeights, ProgressBar
from rnnforecast.training.learner import (
    PRECISIONS,
    Learner,
    Member,
    resolve_device,
    resolve_precision,
    seeds_of,
)
from rnnforecast.training.loop import (
    SCHEDULES,
    BatchSource,
    Callback,
    History,
    Settings,
    train,
)
from rnnforecast.training.optimizers import OPTIMIZERS
from rnnforecast.training.threads import allowed_threads, at_most_threads, useful_threads

__all__ = [
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "BatchSource",
    "BestWeights",
    "Callback",
    "History",
    "Learner",
    "Member",
    "ProgressBar",
    "Settings",
    "allowed_threads",
    "at_most_threads",
    "resolve_device",
    "resolve_precision",
    "seeds_of",
    "train",
    "useful_threads",
]
