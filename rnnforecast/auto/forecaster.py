"""AutoForecaster: the best forecast that a time budget buys."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.auto._search import Search
from rnnforecast.auto.candidates import Candidate, given_candidates, naive_candidates, table
from rnnforecast.auto.judge import METRICS, series_scales
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import BaseForecaster
from rnnforecast.outputs import ConformalErrors, ConformalForecast, PointForecast
from rnnforecast.parameters import estimator
from rnnforecast.training import seeds_of

__all__ = ["AutoForecaster"]

_IN_SAMPLE_ROWS = 1000  # that calibrate the intervals where nothing could be held out


@estimator
class AutoForecaster(BaseForecaster):
    """The best forecast that a time budget buys: a weighted ensemble of what does well.

    Recurrent networks and baselines are fitted to all but the last rows, forecast these from
    rolling origins, and an ensemble of them is chosen by the validation loss. The naive forecasts
    are always among them, so that the ensemble is never worse than the seasonal naive forecast on
    its own validation rows.

    Parameters
    ----------
    time_budget : float, default 300
        Seconds that ``fit`` may take, the last fit to all rows included. It ends earlier once all
        candidates were tried.
    metric : {"mase", "smape", "owa", "mae", "rmsse"}, default "mase"
        Validation loss, computed for each series, then averaged. "owa" is the mean of sMAPE and
        MASE, each over that of the seasonal naive forecast.
    candidates : list or dict of forecasters, optional
        Tried in this order, after the naive ones. Parameters that they leave open (horizon in any
        case; seasonality, random_state, n_jobs, device) are filled in. None: the library's own
        table.
    n_origins : int, optional
        Rolling origins, ``horizon`` rows apart. None: as many as give 200 forecast values, at least
        three for a panel of up to ten series, at most 30; never more than fit into a quarter of
        the rows.
    refit : bool, default True
        Fit the chosen members once more to all rows, in the order of their weights and as far as
        the budget reaches. Others keep the weights of the validation, their history moved on.
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation.
    device : str, default "auto"
        For the networks. "auto" takes CUDA, then MPS, then the CPU.
    n_jobs : int, optional
        Processes over the series of a panel, for the baselines; None is 1.
    random_state : int, RandomState or None
        Where the budget leaves nothing out, the same seed gives the same forecast. Where it does,
        what is left out depends on the speed of the machine.
    verbose : int, default 0
        1 shows a progress bar over the candidates.

    Attributes
    ----------
    leaderboard_ : DataFrame
        Columns model, score (validation loss), weight, seconds and status (why a candidate was
        skipped, failed or was shortened), best first.
    validation_score_ : float
        Loss of the ensemble itself; NaN where no series was long enough to hold rows out.
    members_ : list of Candidate
        Those with a weight: ``name``, ``weight``, ``forecaster``, and ``log`` where that forecasts
        logarithms.
    seasonality_, n_origins_ : int
        Given or chosen.
    conformal_ : ConformalErrors
        Errors of the ensemble at the rolling origins over ``error_scale_``: they give the
        intervals.
    error_scale_ : ndarray, shape (n_series, n_targets)
        Mean error of the seasonal naive forecast in each series; that of the usual (median) one
        for a series with one observed value.

    Notes
    -----
    Each candidate is fitted once, to the rows before the first origin. The ensemble is drawn
    greedily with replacement (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, ICML), one set of
    weights for all series. A candidate that fails is left out, and the leaderboard says why.

    **The budget.** The naive forecasts are free. A baseline is timed on a few series first, and
    skipped where the panel would take more than 15% of the budget. A network is timed for one
    epoch and trained for as many as fit; it is skipped where these are too few. Seconds for the
    last fit of what is chosen so far are set aside. The networks of the ensemble are tried with two
    further seeds. One that stopped early is fitted to all rows for the best number of epochs.

    Intervals are split-conformal, with the errors at the rolling origins.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import AutoForecaster, ThetaForecaster
    >>> index = pd.date_range("2020-01-01", periods=60, freq="MS")
    >>> rows = 60 + 10 * np.sin(np.arange(60) * np.pi / 6) + np.sqrt(np.arange(60))
    >>> fc = AutoForecaster(horizon=3, candidates=[ThetaForecaster()], random_state=0)
    >>> fc = fc.fit(pd.DataFrame({"sales": rows}, index=index))
    >>> fc.leaderboard_["model"].tolist()
    ['ThetaForecaster', 'seasonal naive', 'naive', 'drift']
    >>> fc.forecast().round(0)
                sales
    2025-01-01   68.0
    2025-02-01   73.0
    2025-03-01   77.0
    """

    time_budget: float = 300
    metric: str = "mase"
    candidates: Any = None
    n_origins: int | None = None
    refit: bool = True
    seasonality: int | None = None
    device: str = "auto"
    n_jobs: int | None = None
    random_state: Any = None
    verbose: int = 0

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_real(owner, "time_budget", self.time_budget, 0, closed="neither")
        check_choice(owner, "metric", self.metric, METRICS)
        check_int(owner, "n_origins", self.n_origins, none=True)
        check_bool(owner, "refit", self.refit)
        check_int(owner, "seasonality", self.seasonality, none=True)
        if self.candidates is not None:
            given_candidates(owner, self.candidates)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        start, panel = monotonic(), panel.owned()  # one copy, for the members too
        season = choose_seasonality(panel) if self.seasonality is None else int(self.seasonality)
        seeds = np.random.RandomState(seeds_of(self.random_state, 1)[0])
        search = Search(self, panel, season, start, seeds)
        naive = naive_candidates(season)
        fallback = self._fallback(search, naive[0])
        if self.candidates is None:
            n_train = int(np.median(search.train.lengths))
            search.run_all(naive, table(panel, n_train, self.horizon, season))
        else:
            search.run_all(naive, given_candidates(type(self).__name__, self.candidates))
        members = self._members(search)
        scale = self._error_scale(panel, season)
        score, judge, weighted = float("nan"), search.judge, search.weighted()
        if judge is not None and weighted:
            mixed = np.sum([w * trial.forecast for trial, w in weighted if w > 0], axis=0)
            score = judge.loss(mixed)
            errors = (judge.truth - mixed) / scale[search.judged][:, None, None]
            errors = errors.reshape(-1, *errors.shape[2:])
        else:
            members = [replace(fallback, weight=1.0)]
            errors = _in_sample_errors(fallback, panel, scale)
        return {
            "panel_": panel,
            "leaderboard_": _leaderboard(search, fallback),
            "validation_score_": score,
            "members_": members,
            "fallback_": fallback,
            "seasonality_": season,
            "n_origins_": int(search.windows.counts.max()),
            "conformal_": ConformalErrors(errors),
            "error_scale_": scale,
        }

    def _fallback(self, search: Search, candidate: Candidate) -> Candidate:
        """The seasonal naive forecast, or the last value: what forecasts where all else fails."""
        owner = type(self).__name__
        try:
            member = search.prepared(candidate, 0)
            search.fit(member, search.panel)
        except DataError as error:
            raise DataError(str(error).replace("NaiveForecaster", owner, 1)) from error
        return member

    def _members(self, search: Search) -> list[Candidate]:
        """The chosen members, fitted to all rows where the budget allows; notes the outcome."""
        members = []
        chosen = [(trial, weight) for trial, weight in search.weighted() if weight > 0]
        for trial, weight in sorted(chosen, key=lambda pair: -pair[1]):
            member, outcome = trial.member, "weights of the validation kept"
            assert member is not None
            if self.refit and trial.fit_seconds <= search.left:
                begin = monotonic()
                again = replace(member, forecaster=_as_found(member.forecaster))
                try:
                    search.fit(again, search.panel)
                    member = again
                    outcome = "fitted again to all rows"
                except Exception as error:
                    outcome += f", as the fit to all rows failed ({error})"
                trial.seconds += monotonic() - begin
            trial.status = trial.status.replace("not chosen", f"chosen, {outcome}", 1)
            members.append(replace(member, weight=weight))
        return members

    @staticmethod
    def _error_scale(panel: Panel, season: int, known: np.ndarray | None = None) -> np.ndarray:
        """That of each series; where it has none, the median one (of the ``known``, if given)."""
        scale = pd.DataFrame(series_scales(panel, season))
        usual = (scale if known is None else pd.DataFrame(known)).median()
        return scale.fillna(usual).fillna(1.0).to_numpy(copy=True)

    # -- hooks of the contract ---------------------------------------------------------------------

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        scale = self._error_scale(history, self.seasonality_, self.error_scale_)
        if not fresh:
            scale[: len(self.error_scale_)] = self.error_scale_
        return {
            "members_": [member.at(history, fresh) for member in self.members_],
            "fallback_": self.fallback_.at(history, fresh),
            "error_scale_": scale,
        }

    def _forecast(self, history, series, origins, n_steps, known):
        """Weighted mean of the members' forecasts.

        Where a member has no finite forecast (a regression at a step whose covariates are missing)
        the others make up for its weight; where none has, the fallback forecasts.
        """
        points = np.stack([m.point(series, origins, n_steps, known) for m in self.members_])
        weights = np.array([m.weight for m in self.members_])[:, None, None, None]
        share = np.where(np.isfinite(points), weights, 0.0)
        total = share.sum(0)
        mixed = (np.where(share > 0, points, 0.0) * share).sum(0)
        if not (total > 0).all():
            spare = self.fallback_.point(series, origins, n_steps, known)
            mixed, total = np.where(total > 0, mixed, spare), np.where(total > 0, total, 1.0)
        centre = PointForecast(torch.from_numpy(mixed / total))
        scale = torch.from_numpy(self.error_scale_[series])[:, None]
        return ConformalForecast(centre, self.conformal_, scale)

    def _describe(self) -> list[str]:
        parts = [f"{member.weight:.2f} {member.name}" for member in self.members_]
        shown = " + ".join(parts[:4]) + (f" + {len(parts) - 4} more" if len(parts) > 4 else "")
        score = f"validation {self.metric} {self.validation_score_:.4g}"
        return [shown, score, *super()._describe()]


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


def _in_sample_errors(member: Candidate, panel: Panel, scale: np.ndarray) -> np.ndarray:
    """One-step errors over the scale, where no series could be judged: (n, 1, n_targets)."""
    rows = np.linspace(0, len(panel.targets) - 1, _IN_SAMPLE_ROWS).astype(np.int64)
    rows = np.setdiff1d(rows, panel.indptr)  # a first row has nothing before it
    series = np.searchsorted(panel.indptr, rows, side="right") - 1
    origins = rows - panel.indptr[series]
    point = member.point(series, origins, 1, panel.known[rows][:, None])
    return (panel.targets[rows][:, None] - point) / scale[series][:, None]


def _leaderboard(search: Search, fallback: Candidate) -> pd.DataFrame:
    """One row for each candidate, best first, those without a score at the end."""
    weights = dict(search.weighted())
    rows = [(t.name, t.score, weights.get(t, 0.0), t.seconds, t.status) for t in search.trials]
    if not weights:
        rows.insert(0, (fallback.name, np.nan, 1.0, 0.0, "chosen: nothing could be judged"))
    frame = pd.DataFrame(rows, columns=["model", "score", "weight", "seconds", "status"])
    return frame.sort_values("score", kind="stable", ignore_index=True)
