"""Fit and forecast with this library; see ``_worker.py``.

With ``"plain": true`` the task asks for the peers' network: no linear map beside the recurrent
path and the window's mean as the only anchor, so that what is left is window normalisation,
recurrent layers and a linear head.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from _worker import Data, Watch, forecasts_of, serve

import rnnforecast
from rnnforecast import DeepRNNForecaster
from rnnforecast.forecasters import windows
from rnnforecast.nn.library import status
from rnnforecast.training import Callback, learner


class Snapshots(Callback):
    """The loop's callback for a watch."""

    def __init__(self, network, watch: Watch):
        self.network, self.watch = network, watch

        self.enough = False

    def on_batch(self, step: int) -> None:
        self.enough |= self.watch.step(self.network)

    def on_epoch(self, network, history) -> str | None:
        return "time is up" if self.enough else None


def _make_plain(network) -> None:
    """Take the skip and the learnt anchor out of a network."""
    with torch.no_grad():
        network.skip.weight.zero_()
        network.anchor_logits.fill_(-40.0)
        network.anchor_logits[:, 1] = 40.0  # last value, mean, last season
    network.skip.weight.requires_grad_(False)
    network.anchor_logits.requires_grad_(False)


def _watched(watch: Watch, plain: bool, train):
    """``training.train`` with a watch over it."""

    def watched(network, batches, loss, settings, generator, validate=None, callbacks=(), **more):
        if plain:
            _make_plain(network)
        watch.begin()
        watchers = [*callbacks, Snapshots(network, watch)]
        try:
            return train(network, batches, loss, settings, generator, validate, watchers, **more)
        finally:
            watch.end()

    return watched


def _rolled(forecaster, data: Data, horizon: int) -> np.ndarray:
    """Forecasts from every row asked for, one after another in time: update, then forecast."""
    out = np.full((len(data.eval_end), horizon), np.nan)
    at = data.train_end.copy()
    offsets = data.eval_end - data.train_end[data.eval_series]
    for offset in np.unique(offsets):
        due = np.flatnonzero(offsets == offset)
        if offset:
            until = data.train_end + offset
            names = [f"S{i:05d}" for i in range(len(at))]
            forecaster.update(data.frame(range(len(at)), until, names, at))
            at = until
        table = forecaster.forecast()["y"].to_numpy().reshape(len(at), horizon)
        out[due] = table[data.eval_series[due]]
    return out


def options(task: dict) -> dict:
    """Arguments of the forecaster; what the task leaves out keeps its default."""
    given = dict(task["settings"])
    steps = given.pop("steps", None)
    if steps is not None:
        given["max_epochs"] = math.ceil(steps / windows._MAX_STEPS)
    if "hidden_size" in given and not task.get("keep_validation"):
        given |= {"early_stopping": False, "validation_fraction": 0.0}
    return given


def run(task: dict, data: Data):
    watch = Watch(task)
    frame = data.training()
    train, most = learner.train, windows._MAX_STEPS
    steps = task["settings"].get("steps")
    if steps is not None and steps < most:
        windows._MAX_STEPS = steps
    learner.train = _watched(watch, task.get("plain", False), train)
    try:
        watch.clock.start()
        forecaster = DeepRNNForecaster(
            horizon=task["horizon"],
            target="y",
            series_id="series",
            time="time",
            random_state=task["seed"],
            **options(task),
        )
        forecaster.fit(frame)
        watch.clock.stop()
    finally:
        learner.train, windows._MAX_STEPS = train, most
    history = forecaster.panel_

    def forecast():
        forecaster.panel_ = history
        return _rolled(forecaster, data, task["horizon"])

    return watch, forecasts_of(watch, forecaster.network_, forecast)


if __name__ == "__main__":
    versions = {
        "rnnforecast": rnnforecast.__version__,
        "torch": torch.__version__,
        "pandas": pd.__version__,
        "kernels": str(status()),
    }
    serve(versions, run)
