"""Fit and forecast with GluonTS' DeepAR in torch; see ``_worker.py``.

DeepAR is an autoregressive LSTM with a Student's t likelihood. At equal settings the lags are cut
to the last value and the look-back is its context, but the horizon is unrolled besides and the
likelihood stays: there is no MAE and no GRU. The forecast is the median of its samples.
"""

from __future__ import annotations

import logging

import gluonts
import lightning.pytorch
import numpy as np
import torch
from _worker import Data, Watch, forecasts_of, lightning_callback, serve
from gluonts.dataset.pandas import PandasDataset
from gluonts.torch.model.deepar import DeepAREstimator

NAMES = {
    "hidden_size": "hidden_size",
    "n_layers": "num_layers",
    "batch_size": "batch_size",
    "lookback": "context_length",
    "lr": "lr",
}


def run(task: dict, data: Data):
    settings = task["settings"]
    if settings.get("cell", "lstm") != "lstm":
        raise ValueError("DeepAR has LSTM cells only")
    given = {NAMES[k]: v for k, v in settings.items() if k in NAMES}
    watch = Watch(task)
    trainer = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "callbacks": [lightning_callback(lightning.pytorch.Callback, watch)],
    }
    if "steps" in settings:
        trainer["max_epochs"] = 1
        given["num_batches_per_epoch"] = settings["steps"]
    if "hidden_size" in settings:
        given |= {"lags_seq": [1], "dropout_rate": 0.0}
    frame = data.training()
    lightning.pytorch.seed_everything(task["seed"])
    watch.clock.start()
    dataset = PandasDataset.from_long_dataframe(
        frame, item_id="series", timestamp="time", target="y", freq=data.freq
    )
    estimator = DeepAREstimator(
        freq=data.freq, prediction_length=task["horizon"], trainer_kwargs=trainer, **given
    )
    made = estimator.train_model(dataset, cache_data=False)
    watch.clock.stop()
    histories = PandasDataset.from_long_dataframe(
        data.histories(2000), item_id="series", timestamp="time", target="y", freq=data.freq
    )

    def forecast():
        torch.manual_seed(task["seed"])
        predictor = estimator.create_predictor(estimator.create_transformation(), made.trained_net)
        return np.stack([f.quantile(0.5) for f in predictor.predict(histories)])

    return watch, forecasts_of(watch, made.trained_net, forecast)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    serve({"gluonts": gluonts.__version__, "torch": torch.__version__}, run)
