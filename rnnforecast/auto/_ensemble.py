"""From judged candidates to the members of the ensemble, and its leaderboard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.base import clone

from rnnforecast.auto._members import Member
from rnnforecast.auto._search import Search, Trial
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.conformal import ConformalErrors

__all__ = ["calibrate", "leaderboard", "members_of", "score"]

_IN_SAMPLE_ROWS = 1000  # that calibrate the intervals where nothing could be held out


def members_of(search: Search, weighted: list[tuple[Trial, float]]) -> list[Member]:
    """The chosen members at the end of all rows, fitted to these where the budget allows.

    Notes the outcome in each trial's status.
    """
    members = []
    chosen = [(trial, weight) for trial, weight in weighted if weight > 0]
    for trial, weight in sorted(chosen, key=lambda pair: -pair[1]):
        member = None
        outcome = "weights of the validation kept"
        if search.refit and trial.fit_seconds <= search.left:
            member, outcome = _refitted(search, trial)
        if member is None:
            assert trial.member is not None
            member = trial.member.moved(search.panel)
        trial.status = trial.status.replace("not chosen", f"chosen, {outcome}", 1)
        members.append(replace(member, weight=weight))
    return members


def _refitted(search: Search, trial: Trial) -> tuple[Member | None, str]:
    """The trial's forecaster fitted to all rows with the parameters and epochs found."""
    assert trial.member is not None
    begun = search.clock()
    member = replace(trial.member, forecaster=_as_found(trial.member.forecaster))
    try:
        member.fit(search.panel)
        return member, "fitted again to all rows"
    except Exception as error:
        return None, f"weights of the validation kept, as the fit to all rows failed ({error})"
    finally:
        trial.seconds += search.clock() - begun


def _as_found(forecaster: BaseForecaster) -> BaseForecaster:
    """An unfitted copy without held-out rows; one that stopped early gets the best epochs."""
    copy = clone(forecaster)
    parameters = copy.get_params(deep=False)
    found: dict[str, object] = {}
    if parameters.get("early_stopping"):
        history = getattr(forecaster, "history_", None)
        if history is None:
            return copy
        found = {"max_epochs": max(int(history.best_epoch), 1), "early_stopping": False}
    if "validation_fraction" in parameters:
        found["validation_fraction"] = 0.0
    return copy.set_params(**found)


def _mixed(weighted: list[tuple[Trial, float]]) -> np.ndarray:
    """The ensemble's forecast of the held-out rows."""
    parts = [
        weight * trial.forecast
        for trial, weight in weighted
        if weight > 0 and trial.forecast is not None
    ]
    return np.sum(parts, axis=0)


def score(search: Search, weighted: list[tuple[Trial, float]]) -> float:
    """Validation loss of the ensemble; NaN where nothing was judged."""
    return float("nan") if search.judge is None else search.judge.loss(_mixed(weighted))


def calibrate(
    search: Search, weighted: list[tuple[Trial, float]], fallback: Member, scale: np.ndarray
) -> ConformalErrors:
    """Errors of the ensemble at the rolling origins, in units of each series' scale.

    Parameters
    ----------
    search : Search
    weighted : list of (Trial, float)
    fallback : Member
        Its one-step errors count where no series could be judged.
    scale : ndarray, shape (n_series, n_targets)
    """
    panel, origins = search.panel, search.origins
    if search.judge is not None:
        errors = (search.judge.truth - _mixed(weighted)) / scale[origins.series][:, None, None]
        return ConformalErrors(errors.reshape(-1, *errors.shape[2:]), scale)
    rows = np.linspace(0, len(panel.targets) - 1, _IN_SAMPLE_ROWS).astype(np.int64)
    rows = np.unique(rows)
    series = np.searchsorted(panel.indptr, rows, side="right") - 1
    positions = rows - panel.indptr[series]
    series, positions, rows = (part[positions > 0] for part in (series, positions, rows))
    point = fallback.in_sample(series, positions, panel.known[rows].astype(np.float64))
    errors = (panel.targets[rows] - point) / scale[series]
    return ConformalErrors(errors[:, None], scale)


def leaderboard(trials: list[Trial], weighted: list[tuple[Trial, float]]) -> pd.DataFrame:
    """One row for each candidate, best first, those without a score at the end."""
    weights = {id(trial): weight for trial, weight in weighted}
    frame = pd.DataFrame(
        {
            "model": [trial.name for trial in trials],
            "score": [trial.score for trial in trials],
            "weight": [float(weights.get(id(trial), 0.0)) for trial in trials],
            "seconds": [trial.seconds for trial in trials],
            "status": [trial.status for trial in trials],
        }
    )
    return frame.sort_values("score", kind="stable", ignore_index=True)
