"""What every worker of this folder does: read tasks as JSON lines, answer each with a JSON line.

A worker is ``run_<library>.py``, run by the Python that has the library. It imports first, says
``{"ready": {versions}}``, and then waits for tasks on its standard input. A task is a dict:

data : str
    A file as ``benchmarks/_tasks.py`` writes it: ``values`` and ``indptr`` (series laid end to
    end), ``train_end`` (rows of each series that may be fitted), ``eval_series`` and ``eval_end``
    (forecast from these rows of these series), ``start`` and ``freq`` (time stamps).
horizon, seed, threads : int
settings : dict
    ``cell``, ``hidden_size``, ``n_layers``, ``lookback``, ``batch_size``, ``lr``, ``steps``; a
    name that is left out keeps the library's default.
snapshots : list of int
    Steps at which the weights are set aside; a forecast is made from each after the training.
limit_s : float
    CPU seconds of training after which it stops, with a last snapshot if there are any.

Clocks run while the library works on a frame that is in memory, and stand still while weights are
set aside. Imports are over before.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd


class Data:
    """The arrays of a task, and frames of them."""

    def __init__(self, path: str):
        with np.load(path) as file:
            self.values, self.indptr = file["values"], file["indptr"]
            self.train_end = file["train_end"]
            self.eval_series, self.eval_end = file["eval_series"], file["eval_end"]
            start, self.freq = str(file["start"]), str(file["freq"])
        self.stamps = pd.date_range(start, periods=int(np.diff(self.indptr).max()), freq=self.freq)

    def series(self, i: int, end: int, begin: int = 0) -> np.ndarray:
        """Rows ``begin`` to ``end`` of series i."""
        return self.values[self.indptr[i] + begin : self.indptr[i] + end]

    def frame(self, numbers, ends, names, begins=None, columns=("series", "time", "y")):
        """A long frame of stretches: one row a time step, columns of name, time and value."""
        begins = np.zeros(len(ends), dtype=int) if begins is None else begins
        parts = [self.series(i, b, a) for i, a, b in zip(numbers, begins, ends)]
        stamps = [self.stamps[a:b] for a, b in zip(begins, ends)]
        return pd.DataFrame(
            {
                columns[0]: np.repeat(np.asarray(names, dtype=object), [len(p) for p in parts]),
                columns[1]: stamps[0].append(stamps[1:]),
                columns[2]: np.concatenate(parts),
            }
        )

    def training(self, columns=("series", "time", "y")) -> pd.DataFrame:
        """The rows that may be fitted."""
        n = len(self.train_end)
        return self.frame(
            range(n), self.train_end, [f"S{i:05d}" for i in range(n)], columns=columns
        )

    def histories(self, most: int, columns=("series", "time", "y")) -> pd.DataFrame:
        """The last ``most`` rows before each forecast, each under a name of its own."""
        names = [f"E{k:05d}" for k in range(len(self.eval_end))]
        begins = np.maximum(self.eval_end - most, 0)
        return self.frame(self.eval_series, self.eval_end, names, begins, columns)


class Clock:
    """Wall and CPU seconds since ``start``, less those while it was stopped."""

    def __init__(self):
        self.wall = self.cpu = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if self._since is not None:
            self.wall += time.perf_counter() - self._since[0]
            self.cpu += time.process_time() - self._since[1]
            self._since = None


class Watch:
    """Sets weights aside during a training, and tells when to end it."""

    def __init__(self, task: dict[str, Any]):
        self.clock = Clock()
        self.snapshots = set(task.get("snapshots", ()))
        self.limit = task.get("limit_s", float("inf"))
        self.begun: tuple[float, float] = (0.0, 0.0)
        self.ended: tuple[float, float] = (0.0, 0.0)
        self._cpu_begun = 0.0
        self._over = False
        self.steps = 0
        self.kept: list[tuple[dict[str, float], dict[str, Any]]] = []

    def begin(self) -> None:
        """The data are prepared, the first step is next."""
        self.clock.stop()
        self.begun = self.clock.wall, self.clock.cpu
        self._cpu_begun = time.process_time()
        self.clock.start()

    def step(self, module) -> bool:
        """One step is done; True if the training should end."""
        self.steps += 1
        if self._over:  # a loop that ends with its epoch only
            return True
        self._over = over = time.process_time() - self._cpu_begun > self.limit
        if self.steps not in self.snapshots and not (over and self.snapshots):
            return over
        self.clock.stop()
        mark = {"step": self.steps, "wall_s": self.clock.wall, "cpu_s": self.clock.cpu}
        mark["train_cpu_s"] = self.clock.cpu - self.begun[1]
        self.kept.append((mark, {k: v.clone() for k, v in module.state_dict().items()}))
        self.clock.start()
        return over

    def end(self) -> None:
        """The last step is done."""
        self.clock.stop()
        self.ended = self.clock.wall, self.clock.cpu
        self.clock.start()

    def report(self) -> dict[str, Any]:
        """Seconds of the parts, after the fit has returned and the clock was stopped."""
        return {
            "steps": self.steps,
            "prepare_s": self.begun[0],
            "train_s": self.ended[0] - self.begun[0],
            "train_cpu_s": self.ended[1] - self.begun[1],
            "fit_s": self.clock.wall,
            "fit_cpu_s": self.clock.cpu,
        }


def lightning_callback(base, watch: Watch):
    """A callback of Lightning's for a watch; ``base`` is the installed Lightning's Callback."""

    class Snapshots(base):
        def on_train_start(self, trainer, module):
            watch.begin()

        def on_train_batch_end(self, trainer, module, *_):
            if watch.step(module):
                trainer.should_stop = True

        def on_train_end(self, trainer, module):
            watch.end()

    return Snapshots()


def forecasts_of(watch: Watch, module, forecast: Callable[[], np.ndarray]) -> list[np.ndarray]:
    """A forecast of every snapshot, and of the weights at the end if there was none."""
    if not watch.kept:
        return [forecast()]
    made = []
    for _, weights in watch.kept:
        module.load_state_dict(weights)
        made.append(forecast())
    return made


def serve(versions: dict[str, str], run: Callable[[dict, Data], tuple[Watch, list]]) -> None:
    """Answer tasks until the input ends. ``run`` fits and forecasts for one task."""
    import torch

    channel = os.fdopen(os.dup(1), "w")  # libraries may print: their output goes to stderr
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # for what Lightning writes
        print(json.dumps({"ready": versions}), file=channel, flush=True)
        for line in sys.stdin:
            task = json.loads(line)
            torch.set_num_threads(task["threads"])
            try:
                watch, forecasts = run(task, Data(task["data"]))
                np.save(task["forecasts"], np.stack(forecasts).astype(np.float64))
                answer = watch.report() | {"curve": [mark for mark, _ in watch.kept]}
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=channel, flush=True)
        os.chdir("/")
