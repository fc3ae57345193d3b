"""Fit and forecast with darts' BlockRNNModel; see ``_worker.py``.

darts leaves scaling to its user: each series goes through its ``Scaler`` (to the range 0 to 1), and
at equal settings through reversible instance normalisation of the window besides.
"""

from __future__ import annotations

import logging

import darts
import numpy as np
import pytorch_lightning
import torch
from _worker import Data, Watch, forecasts_of, lightning_callback, serve
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import BlockRNNModel

NAMES = {
    "hidden_size": "hidden_dim",
    "n_layers": "n_rnn_layers",
    "batch_size": "batch_size",
    "lookback": "input_chunk_length",
}


def options(task: dict) -> dict:
    """The model's arguments; what the task leaves out keeps its default."""
    settings = task["settings"]
    given = {NAMES[k]: v for k, v in settings.items() if k in NAMES}
    given.setdefault("input_chunk_length", 3 * task["horizon"])  # it has no default
    if "lr" in settings:
        given["optimizer_kwargs"] = {"lr": settings["lr"]}
    if "hidden_size" in settings:
        given |= {"use_reversible_instance_norm": True, "loss_fn": torch.nn.L1Loss()}
    return given


def run(task: dict, data: Data):
    watch = Watch(task)
    frame = data.training()
    trainer = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [lightning_callback(pytorch_lightning.Callback, watch)],
        "max_steps": task["settings"].get("steps", -1),
    }
    watch.clock.start()
    series = TimeSeries.from_group_dataframe(
        frame, group_cols="series", time_col="time", value_cols="y", freq=data.freq, verbose=False
    )
    series = [s.with_static_covariates(None).astype(np.float32) for s in series]
    scaler = Scaler()
    scaled = scaler.fit_transform(series)
    model = BlockRNNModel(
        output_chunk_length=task["horizon"],
        model=task["settings"].get("cell", "lstm").upper(),
        random_state=task["seed"],
        pl_trainer_kwargs=trainer,
        **options(task),
    )
    model.fit(scaled)
    watch.clock.stop()
    # each history in the unit of its own series: the scaler's offset and factor
    low = np.array([data.series(i, e).min() for i, e in enumerate(data.train_end)])
    high = np.array([data.series(i, e).max() for i, e in enumerate(data.train_end)])
    width = np.where(high > low, high - low, 1.0)
    histories = []
    for i, end in zip(data.eval_series, data.eval_end):
        begin = max(end - model.input_chunk_length, 0)  # it reads no further back
        values = (data.series(i, end, begin) - low[i]) / width[i]
        stamps = data.stamps[begin:end]
        histories.append(TimeSeries.from_times_and_values(stamps, values.astype(np.float32)))

    def forecast():
        parts = model.predict(task["horizon"], series=histories, verbose=False)
        values = np.stack([p.values()[:, 0] for p in parts])
        return values * width[data.eval_series, None] + low[data.eval_series, None]

    return watch, forecasts_of(watch, model.model, forecast)


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    serve({"darts": darts.__version__, "torch": torch.__version__}, run)
