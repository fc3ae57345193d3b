"""What the comparisons with peers share: data sets as files, workers, and one scoring for all."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PEERS = Path(__file__).resolve().parent / "peers"
sys.path.insert(0, str(PEERS))
from make_envs import default_folder, python_of  # noqa: E402

DATASETS = ("m4", "weather", "sp500")


class Problem:
    """A data set cut for one kind of rows, written to a file for the workers.

    Parameters
    ----------
    name : {"m4", "weather", "sp500"}
    rows : {"validation", "test"}
        "validation": the rows before the held-out ones are cut off as if they were all there is,
        and their last stretch is forecast instead. Settings are chosen on these.
    folder : Path
        Gets the file.
    data_home : path, optional
        Has the M4 files.
    n_series : int, optional
        Keep the first ones only.
    """

    def __init__(self, name, rows, folder, data_home=None, n_series=None):
        make = {"m4": _m4, "weather": _weather, "sp500": _sp500}[name]
        series, held, step, self.horizon, self.season, start, freq = make(data_home)
        self.name, self.rows = name, rows
        series = series[:n_series]
        if rows == "validation":
            series = [s[:-held] for s in series]
        lengths = np.array([len(s) for s in series])
        self.train_end = lengths - held
        offsets = np.arange(0, held - self.horizon + 1, step)
        self.eval_series = np.tile(np.arange(len(series)), len(offsets))
        self.eval_end = np.concatenate([self.train_end + offset for offset in offsets])
        self.series = series
        self.path = folder / f"{name}_{rows}_{len(series)}.npz"
        np.savez(
            self.path,
            values=np.concatenate(series),
            indptr=np.concatenate([[0], np.cumsum(lengths)]),
            train_end=self.train_end,
            eval_series=self.eval_series,
            eval_end=self.eval_end,
            start=start,
            freq=freq,
        )
        self.truth = np.stack(
            [series[i][e : e + self.horizon] for i, e in zip(self.eval_series, self.eval_end)]
        )
        m = self.season
        self.scale = np.array(
            [np.abs(s[m:e] - s[: e - m]).mean() for s, e in zip(series, self.train_end)]
        )

    def mase(self, forecast: np.ndarray) -> float:
        """Mean over forecasts of MAE by the in-sample error of the (seasonal) naive forecast."""
        error = np.abs(forecast - self.truth).mean(1)
        return float(np.mean(error / self.scale[self.eval_series]))

    def naive(self) -> float:
        """MASE of the seasonal naive forecast (of the naive one where there is no season)."""
        m, steps = self.season, np.arange(self.horizon)
        made = [self.series[i][e - m + steps % m] for i, e in zip(self.eval_series, self.eval_end)]
        return self.mase(np.stack(made))


def _m4(data_home):
    """414 series, one forecast of 48 hours each; the stamps are made up (the files have none)."""
    from rnnforecast.datasets import load_m4

    train, test = load_m4("Hourly", data_home=data_home, download=data_home is None)
    past = {name: part.to_numpy() for name, part in train["y"].groupby(level=0, sort=False)}
    future = {name: part.to_numpy() for name, part in test["y"].groupby(level=0, sort=False)}
    series = [np.concatenate([past[name], future[name]]) for name in past]
    return series, 48, 48, 48, 24, "2000-01-01", "h"


def _weather(_):
    """Temperature at three airports, gaps interpolated; 60 daily forecasts of 24 hours each."""
    from rnnforecast.datasets import load_nyc_weather

    frame = load_nyc_weather()["temp"].unstack("station").asfreq("h").interpolate()
    series = [frame[name].to_numpy() for name in frame]
    return series, 60 * 24, 24, 24, 24, str(frame.index[0]), "h"


def _sp500(_):
    """Logarithm of the daily volume of the S&P 500; forecasts of 20 trading days, every 5 days."""
    from rnnforecast.datasets import load_sp500

    values = np.log(load_sp500()["volume"].to_numpy())
    return [values], 1000, 5, 20, 1, "1999-01-04", "B"


class Worker:
    """One library in a process of its own; alive until closed."""

    def __init__(self, library: str, folder: Path | None, threads: int, log: Any = None):
        ours = library == "rnnforecast"
        python = sys.executable if ours else python_of(folder or default_folder(), library)
        if not Path(python).exists():
            raise SystemExit(
                f"{library} has no environment at {python}: run python {PEERS / 'make_envs.py'}"
            )
        count = str(threads)
        self.library = library
        self.threads = threads
        self.process = subprocess.Popen(
            [str(python), str(PEERS / f"run_{library}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log or subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        )
        atexit.register(self.process.kill)  # a worker in the middle of a task would finish it
        self.versions = self._read()["ready"]

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.library} died: run with --log to see why")
        return json.loads(line)

    def run(self, problem: Problem, settings: dict, *, seed: int = 0, **task: Any) -> dict:
        """Do a task; the answer with ``mase`` (of each snapshot, in ``curve``)."""
        target = problem.path.with_name(f"{self.library}.npy")
        task |= {
            "data": str(problem.path),
            "forecasts": str(target),
            "horizon": problem.horizon,
            "settings": settings,
            "seed": seed,
            "threads": self.threads,
        }
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(f"{self.library}: {answer['error']}")
        scores = [round(problem.mase(forecast), 4) for forecast in np.load(target)]
        for mark, score in zip(answer["curve"], scores):
            mark["mase"] = score
        return answer | {"mase": scores[-1]}

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(timeout=30)
        atexit.unregister(self.process.kill)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every comparison has."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the workers end too
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder with the M4 files; downloaded if left out")
    parser.add_argument("--envs", type=Path, help="folder of make_envs.py")
    parser.add_argument("--log", type=argparse.FileType("a"), help="what the workers print")
    parser.add_argument("--series", type=int, help="keep the first series only (a quick look)")
    return parser


def scratch() -> tempfile.TemporaryDirectory:
    """A folder for the files that driver and workers share."""
    return tempfile.TemporaryDirectory(prefix="rnnforecast-bench-")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as text, columns in the order of the first row."""
    return pd.DataFrame(rows).to_string(index=False, na_rep="-")
