"""Several networks trained in one call, and their forecasts averaged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from joblib import Parallel, delayed

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DivergedError
from rnnforecast.forecasters._model import NetworkModel
from rnnforecast.forecasters._training import Run
from rnnforecast.nn import WindowNetwork
from rnnforecast.outputs import Output
from rnnforecast.training import Callback, History
from rnnforecast.training.threads import allowed_threads
from rnnforecast.training.source import Units

__all__ = ["AGGREGATES", "MemberModel", "average", "calibrate", "fit_members", "model_of"]

AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"median": np.median, "mean": np.mean}


def average(values: Sequence[np.ndarray], aggregate: str) -> np.ndarray:
    """Number by number over forecasts of one shape.

    Quantiles are averaged level by level (Lichtendahl et al. 2013, Management Science 59(7), eq.
    2): those of every member in order, so is their mean, and their median.

    Examples
    --------
    >>> average([np.array([1.0, 4.0]), np.array([2.0, 5.0]), np.array([9.0, 6.0])], "median")
    array([2., 5.])
    """
    return values[0] if len(values) == 1 else AGGREGATES[aggregate](values, axis=0)


@dataclass(frozen=True)
class MemberModel:
    """Networks that were trained on the same windows, as one model; see ``NetworkModel``."""

    members: tuple[NetworkModel, ...]
    aggregate: str

    @property
    def network(self) -> WindowNetwork:
        """The first member's."""
        return self.members[0].network

    @property
    def networks(self) -> list[WindowNetwork]:
        return [member.network for member in self.members]

    @property
    def output(self) -> Output:
        return self.members[0].output

    @property
    def units(self) -> Units:
        return self.members[0].units

    @property
    def lookback(self) -> int:
        return self.members[0].lookback

    @property
    def horizon(self) -> int:
        return self.members[0].horizon

    def future(
        self,
        panel: Panel,
        series: np.ndarray,
        n_steps: int,
        known: np.ndarray,
        origins: np.ndarray | None = None,
    ) -> np.ndarray:
        """As ``NetworkModel.future``; beyond the horizon every member rolls on by itself."""
        return average(
            [member.future(panel, series, n_steps, known, origins) for member in self.members],
            self.aggregate,
        )

    def in_sample(
        self, panel: Panel, series: np.ndarray, positions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """As ``NetworkModel.in_sample``."""
        return average(
            [member.in_sample(panel, series, positions, known) for member in self.members],
            self.aggregate,
        )

    def on_cpu(self) -> MemberModel:
        return MemberModel(tuple(member.on_cpu() for member in self.members), self.aggregate)


def model_of(runs: Sequence[Run], aggregate: str) -> NetworkModel | MemberModel:
    """The trained networks, ready to forecast."""
    models = tuple(run.model() for run in runs)
    return models[0] if len(models) == 1 else MemberModel(models, aggregate)


def calibrate(runs: Sequence[Run], aggregate: str) -> np.ndarray:
    """Errors of the averaged forecast at rolling origins, in series units.

    Returns
    -------
    ndarray of float64, shape (n_origins, horizon, n_targets)
    """
    errors = []
    for batch in runs[0].held_out():
        values = average([run.forecast(batch).cpu().numpy() for run in runs], aggregate)
        point = runs[0].output.point(torch.as_tensor(values)).numpy()
        errors.append((batch.truth.cpu().numpy() - point).astype(np.float64))
    return np.concatenate(errors)


class _Stop(Callback):
    """Ends a member's training once another one failed or the user interrupted."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def on_batch(self, step: int) -> None:
        if self.event.is_set():
            raise _Stopped


class _Stopped(Exception):
    pass


def fit_members(
    runs: Sequence[Run], max_epochs: int, early_stopping: bool, verbose: int, n_jobs: int | None
) -> list[History]:
    """Train every run.

    Members are spread over threads: torch and the kernels release Python's lock, the data are
    shared, and no process has to import torch first. Each uses as many of torch's threads as it
    would alone, since sums over another number of threads differ in the last bits.

    Parameters
    ----------
    runs : sequence of Run
    max_epochs : int
    early_stopping : bool
    verbose : int
    n_jobs : int or None
        Members trained at the same time; as many as torch has threads for if None.

    Returns
    -------
    list of History

    Raises
    ------
    DivergedError
        If a member's training diverged; the message names it.
    """
    if len(runs) == 1:
        return [runs[0].fit(max_epochs, early_stopping, verbose)]
    stop = _Stop()

    def fit(k: int, run: Run) -> History | DivergedError | None:
        named = replace(run, name=f"{run.name} {k + 1}/{len(runs)}")
        try:
            return named.fit(max_epochs, early_stopping, verbose, [stop])
        except _Stopped:
            return None
        except DivergedError as error:
            stop.event.set()
            return error

    if n_jobs is None:
        n_jobs = min(max(allowed_threads() // runs[0].threads(), 1), len(runs))
    try:
        found = Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(fit)(k, run) for k, run in enumerate(runs)
        )
    finally:
        stop.event.set()
    for k, result in enumerate(found):
        if isinstance(result, DivergedError):
            raise DivergedError(f"member {k + 1} of {len(runs)}: {result}") from result
    return found
