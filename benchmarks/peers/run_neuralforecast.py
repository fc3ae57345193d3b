"""Fit and forecast with NeuralForecast; see ``_worker.py``."""

from __future__ import annotations

import logging
import os

import neuralforecast
import pytorch_lightning
import torch
from _worker import Data, Watch, forecasts_of, lightning_callback, serve
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import GRU, LSTM, RNN

COLUMNS = ("unique_id", "ds", "y")
NAMES = {
    "lookback": "input_size",
    "hidden_size": "encoder_hidden_size",
    "n_layers": "encoder_n_layers",
    "batch_size": "windows_batch_size",
    "lr": "learning_rate",
    "steps": "max_steps",
}


def options(task: dict) -> dict:
    """The model's arguments; what the task leaves out keeps its default."""
    given = {NAMES[k]: v for k, v in task["settings"].items() if k in NAMES}
    given.setdefault("input_size", -1)  # it has no default; -1 is three horizons
    if "hidden_size" in task["settings"]:  # equal settings: a linear head, as ours
        given |= {"decoder_layers": 1, "scaler_type": "standard", "loss": MAE()}
    return given


def run(task: dict, data: Data):
    cell = {"lstm": LSTM, "gru": GRU, "rnn": RNN}[task["settings"].get("cell", "lstm")]
    watch = Watch(task)
    frame = data.training(COLUMNS)
    watch.clock.start()
    model = cell(
        h=task["horizon"],
        random_seed=task["seed"],
        callbacks=[lightning_callback(pytorch_lightning.Callback, watch)],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        accelerator="cpu",
        **options(task),
    )
    forecaster = NeuralForecast(models=[model], freq=data.freq)
    forecaster.fit(frame)
    watch.clock.stop()
    fitted = forecaster.models[0]
    # it reads no further back, and preparing more would only make this benchmark slow
    histories = data.histories(fitted.input_size + task["horizon"], COLUMNS)

    def forecast():
        # the name of the column is the model's
        table = forecaster.predict(histories).sort_values(["unique_id", "ds"])
        return table.iloc[:, -1].to_numpy().reshape(len(data.eval_end), task["horizon"])

    return watch, forecasts_of(watch, fitted, forecast)


if __name__ == "__main__":
    os.environ.setdefault("NIXTLA_ID_AS_COL", "1")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    versions = {"neuralforecast": neuralforecast.__version__, "torch": torch.__version__}
    serve(versions, run)
