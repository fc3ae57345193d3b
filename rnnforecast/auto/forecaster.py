"""AutoForecaster: the best forecast that a time budget buys."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.auto import _candidates, _ensemble
from rnnforecast.auto._candidates import Facts
from rnnforecast.auto._members import Member, combine, is_positive
from rnnforecast.auto._origins import plan_origins
from rnnforecast.auto._search import Search, Trial, progress
from rnnforecast.auto._selection import METRICS, Judge, series_scales
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._training import seeds_of
from rnnforecast.forecasters.base import BaseForecaster

__all__ = ["AutoForecaster"]


class AutoForecaster(BaseForecaster):
    """The best forecast that a time budget buys: a weighted ensemble of what does well.

    Recurrent networks and baselines are fitted to all but the last rows, forecast these from
    rolling origins, and an ensemble of them is chosen by the validation loss. The naive forecasts
    are always among them, so that the ensemble is never worse than the seasonal naive forecast on
    its own validation rows.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
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
    target, known, static : str or list of str, optional
        Columns of X: targets, covariates known in the future, constants of each series. Without
        ``target`` (and without y) every column left over is a target.
    series_id, time : str, optional
        Columns that name the series and the time stamp, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.
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
    members_ : list of Member
        Those with a weight: ``name``, ``weight``, ``forecaster``, and ``log`` where that forecasts
        logarithms.
    seasonality_, n_origins_ : int
        Given or chosen.
    conformal_ : ConformalErrors
        Errors of the ensemble at the rolling origins, which give the intervals.
    panel_, roles_, target_names_, cutoff_, n_features_in_, feature_names_in_
        As of every forecaster.

    Notes
    -----
    Each candidate is fitted once, to the rows before the first origin, and moved on to the others
    by ``update``; its weights stay. The ensemble is drawn greedily with replacement (Caruana,
    Niculescu-Mizil, Crew & Ksikes 2004, ICML), one set of weights for all series. A candidate
    that fails is left out, and the leaderboard says why.

    **The budget.** The naive forecasts are free. A baseline is timed on a few series first, and
    skipped where the panel would take more than 15% of the budget. A network is timed for one
    epoch and trained for as many as fit; it is skipped where these are too few. Seconds for the
    last fit of what is chosen so far are set aside. The networks of the ensemble are tried with two
    further seeds: after all candidates, or after four networks where one has half of the weight.
    A network that stopped early is fitted to all rows for the number of epochs that was best.

    Intervals are split-conformal; where a member was fitted again, the errors are those of its fit
    before.

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

    def __init__(
        self,
        *,
        horizon: int = 1,
        time_budget: float = 300,
        metric: str = "mase",
        candidates: Any = None,
        n_origins: int | None = None,
        refit: bool = True,
        seasonality: int | None = None,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.horizon = horizon
        self.time_budget = time_budget
        self.metric = metric
        self.candidates = candidates
        self.n_origins = n_origins
        self.refit = refit
        self.seasonality = seasonality
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

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
            _candidates.given(owner, self.candidates)

    def fit(self, X: Any, y: Any = None) -> AutoForecaster:
        super().fit(X, y)
        self._share()
        return self

    def update(self, X: Any, y: Any = None) -> AutoForecaster:
        super().update(X, y)
        self._share()
        return self

    def _share(self) -> None:
        """Make forecasters of the members that can be used alone, on the one history."""
        common = {
            name: value
            for name, value in vars(self).items()
            if name in ("roles_", "target_names_", "n_features_in_", "feature_names_in_")
        }
        for member in [*self.members_, self.fallback_]:
            member.named(panel_=member.view(self.panel_), **common)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        search = self._search(panel)
        fallback = self._fallback(search)
        weighted = self._judged(search)
        members = _ensemble.members_of(search, weighted)
        scale = series_scales(panel, search.facts.season)
        scale = np.where(scale > 0, scale, 1.0)
        if not weighted:
            members = [replace(fallback, weight=1.0)]
            weighted = [(Trial(fallback.name, status="chosen: nothing could be judged"), 1.0)]
            search.trials.insert(0, weighted[0][0])
        conformal = _ensemble.calibrate(search, weighted, fallback, scale)
        return {
            "leaderboard_": _ensemble.leaderboard(search.trials, weighted),
            "validation_score_": _ensemble.score(search, weighted),
            "members_": members,
            "fallback_": fallback,
            "seasonality_": search.facts.season,
            "n_origins_": search.origins.n_origins if len(search.origins.series) else 0,
            "conformal_": conformal,
        }

    def _search(self, panel: Panel) -> Search:
        start = monotonic()
        season = choose_seasonality(panel) if self.seasonality is None else int(self.seasonality)
        origins = plan_origins(panel, self.horizon, self.n_origins)
        held = np.zeros(panel.n_series, dtype=np.int64)
        held[origins.series] = origins.n_held
        facts = Facts(
            horizon=int(self.horizon),
            season=season,
            season_given=self.seasonality is not None,
            n_series=panel.n_series,
            n_targets=panel.targets.shape[1],
            shortest=int((panel.lengths - held).min()),
            positive=is_positive(panel),
            n_jobs=self.n_jobs,
            device=self.device,
        )
        return Search(
            panel=panel,
            origins=origins,
            facts=facts,
            budget=float(self.time_budget),
            refit=bool(self.refit),
            seeds=np.random.RandomState(seeds_of(self.random_state, 1)[0]),
            clock=monotonic,
            start=start,
        )

    def _fallback(self, search: Search) -> Member:
        """The seasonal naive forecast, or the last value: what forecasts where all else fails."""
        rows = _candidates.naive_candidates(search.facts)
        row = next((row for row in rows if row.name == "seasonal naive"), rows[0])
        member = Member(row.name, _candidates.prepared(row, search.facts, 0))
        try:
            member.fit(search.panel)
        except DataError as error:
            raise DataError(
                str(error).replace("NaiveForecaster", type(self).__name__, 1)
            ) from error
        return member

    def _judged(self, search: Search) -> list[tuple[Trial, float]]:
        """Try everything; the judged trials and their weights."""
        owner, facts, origins = type(self).__name__, search.facts, search.origins
        naive = _candidates.naive_candidates(facts)
        rows = (
            _candidates.table(facts)
            if self.candidates is None
            else _candidates.given(owner, self.candidates)
        )
        if not len(origins.series):
            status = "skipped: no series is long enough to hold rows out"
            search.trials += [Trial(row.name, status=status) for row in rows]
            return []
        truth = origins.blocks(search.panel, search.panel.targets).astype(np.float64)
        with progress(owner, len(naive) + len(rows), self.verbose) as search.told:
            for row in naive:
                search.run(row, free=True)
            by_name = {trial.name: trial.forecast for trial in search.trials}
            reference = by_name.get("seasonal naive", by_name["naive"])
            scale = series_scales(search.first, facts.season, 2 if self.metric == "rmsse" else 1)
            search.judge_by(Judge(self.metric, truth, scale[origins.series], reference))
            search.run_all(rows)
        return search.weighted()

    # -- hooks of the contract ---------------------------------------------------------------------

    def _update_panel(self, panel: Panel) -> dict[str, Any]:
        return {
            "members_": [member.moved(panel) for member in self.members_],
            "fallback_": self.fallback_.moved(panel),
        }

    def _predict_future(self, series, n_steps, known):
        return combine(
            self.members_, self.fallback_, lambda member: member.future(series, n_steps, known)
        )

    def _predict_in_sample(self, series, positions, known):
        return combine(
            self.members_,
            self.fallback_,
            lambda member: member.in_sample(series, positions, known),
        )

    def _quantiles_future(self, series, n_steps, known, levels):
        point = self._predict_future(series, n_steps, known)
        return self.conformal_.quantiles(point, series, levels)

    def _quantiles_in_sample(self, series, positions, known, levels):
        point = self._predict_in_sample(series, positions, known)[:, None]
        return self.conformal_.quantiles(point, series, levels)[:, 0]

    def _describe(self) -> list[str]:
        parts = [f"{member.weight:.2f} {member.name}" for member in self.members_]
        shown = " + ".join(parts[:4]) + (f" + {len(parts) - 4} more" if len(parts) > 4 else "")
        score = f"validation {self.metric} {self.validation_score_:.4g}"
        return [shown, score, *super()._describe()]
