"""Candidates fitted and judged within a budget of seconds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone

from rnnforecast.auto.candidates import Candidate
from rnnforecast.auto.judge import Judge, choose_weights, first_rows, plan_origins, series_scales
from rnnforecast.data.panel import Panel
from rnnforecast.forecasters import BaseForecaster

__all__ = ["Search", "Trial"]

_BASELINE_SHARE = 0.15  # of the budget, for one family that is fitted series by series
_TRIAL_SHARE = 0.05  # of the seconds left, for a trial on one series
_TRIAL_SERIES = 3
_TRIAL_ROWS = 300
_TRIAL_BATCHES = 4
_LEAST_EPOCHS = 3
_LEAST_PART = 1 / 3  # of a network's epochs: with fewer it adds little to networks that had theirs
_REPEATS = 2  # further seeds of the networks that the ensemble chose
_STAR = 0.5  # of the weight: such a network gets them before the next candidate
_VARIETY = 4  # but after so many networks


@dataclass(eq=False)
class Trial:
    """What became of one candidate, its forecast of the held-out rows and its validation loss."""

    name: str
    candidate: Candidate
    member: Candidate | None = None  # fitted before the first origin, all rows its history
    forecast: Any = None
    score: float = float("nan")
    seconds: float = 0.0  # in all
    fit_seconds: float = 0.0  # of the last fit: what a refit will take
    status: str = "not chosen"

    @property
    def is_network(self) -> bool:
        """Whether another seed gives another forecast."""
        return self.member is not None and "random_state" in _parameters(self.member.forecaster)


@dataclass
class Search:
    """Tries candidates one by one, for an AutoForecaster that has its columns."""

    auto: Any
    panel: Panel
    season: int
    start: float  # of the budget's seconds
    seeds: np.random.RandomState
    judge: Judge | None = None  # once its reference, the naive forecasts, were tried
    trials: list[Trial] = field(default_factory=list)
    _weights: np.ndarray | None = None  # of the trials judged so far; these are never taken back

    def __post_init__(self) -> None:
        panel = self.panel
        self.windows = plan_origins(panel, self.auto.horizon, self.auto.n_origins)
        self.judged = np.flatnonzero(self.windows.counts)
        self._at = self.windows[np.arange(len(self.windows))]
        series, origins = self._at
        self._rows = (panel.indptr[series] + origins)[:, None] + np.arange(self.windows.stride)
        lengths = np.where(self.windows.counts > 0, self.windows.first, panel.lengths)
        self.train = first_rows(panel, np.arange(panel.n_series), lengths)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.start + float(self.auto.time_budget) - monotonic()

    def _by_series(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(len(self.judged), -1, *values.shape[1:])

    # -- one candidate -----------------------------------------------------------------------------

    def run(self, candidate: Candidate, free: bool = False) -> None:
        """Try one candidate; ``free`` ones whatever the budget. Never raises for its failure."""
        begin = monotonic()
        seed = int(self.seeds.randint(2**31 - 1))  # drawn even if it is skipped: seeds stay put
        again = self._n_seeds(candidate)
        trial = Trial(candidate.name + (f", seed {again + 1}" if again else ""), candidate)
        try:
            member = self.prepared(candidate, seed)
            note = "" if free else self._fit_to_budget(member)
            if note.startswith("skipped"):
                trial.status = note
            else:
                self._fit_and_judge(trial, replace(member, name=trial.name), note)
        except Exception as error:
            lines = str(error).strip().splitlines()
            trial.status = f"failed: {': '.join([type(error).__name__, *lines[:1]])}"
        trial.seconds = monotonic() - begin
        self.trials.append(trial)
        self.bar.total = max(self.bar.total, self.bar.n + 1)  # further seeds come on top
        self.bar.update()

    def prepared(self, candidate: Candidate, seed: int) -> Candidate:
        """A clone with the horizon, and with what its own parameters leave open."""
        forecaster, auto = clone(candidate.forecaster), self.auto
        parameters = _parameters(forecaster)
        values = {"random_state": seed, "n_jobs": auto.n_jobs, "device": auto.device}
        # networks choose their season by the same rule, or by one of their own
        if auto.seasonality is not None or "max_epochs" not in parameters:
            values["seasonality"] = self.season
        left = {k: v for k, v in values.items() if parameters.get(k, "given") in (None, "auto")}
        forecaster.set_params(horizon=int(auto.horizon), **left)
        return replace(candidate, forecaster=forecaster)

    def fit(self, member: Candidate, panel: Panel) -> tuple[list[str], float]:
        """Fit a member to ``panel``; the warnings that it gave, which stay inside, and seconds."""
        auto, begin = self.auto, monotonic()
        names = getattr(auto, "feature_names_in_", None)
        member.forecaster._check_params()
        # recorded rather than shown: they stand in the leaderboard
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = member.history(panel)
            member.forecaster._adopt(history, auto.roles_, auto.n_features_in_, names)
        return [str(warning.message) for warning in caught], monotonic() - begin

    def _fit_and_judge(self, trial: Trial, member: Candidate, note: str) -> None:
        warned, trial.fit_seconds = self.fit(member, self.train)
        member = member.at(self.panel)
        known = self.panel.known[self._rows]
        forecast = self._by_series(member.point(*self._at, self.windows.stride, known))
        if self.judge is not None:
            score = self.judge.loss(forecast)
            if not np.isfinite(score):
                trial.status = "failed: its forecasts are not finite"
                return
            trial.score = score
        trial.member, trial.forecast = member, forecast
        notes = [note, *(f"warned: {text}" for text in warned[:1])]
        trial.status = "; ".join([trial.status, *filter(None, notes)])

    # -- the budget --------------------------------------------------------------------------------

    def _fit_to_budget(self, member: Candidate) -> str:
        """Make a candidate fit the budget; return what to note, "skipped: ..." if it cannot."""
        if self.left <= 0:
            return "skipped: out of budget"
        network = "max_epochs" in _parameters(member.forecaster)
        return self._time_network(member) if network else self._time_baseline(member)

    def _spare(self) -> float:
        """Seconds for a fit, beside its refit and those of what would be chosen now."""
        if not self.auto.refit:
            return self.left
        return (self.left - sum(trial.fit_seconds for trial, w in self.weighted() if w > 0)) / 2

    def _seconds(self, member: Candidate, panel: Panel, **options: int) -> float:
        """Time a fit that is thrown away."""
        forecaster = clone(member.forecaster).set_params(**options)
        return self.fit(replace(member, forecaster=forecaster), panel)[1]

    def _time_baseline(self, member: Candidate) -> str:
        """Predict the seconds of a family that cannot be interrupted from a few series."""
        panel, n_series = self.train, self.train.n_series
        rows = len(panel.targets) / n_series
        each = self._usual_seconds(member.forecaster) * rows / 1000 * panel.targets.shape[1]
        if each > _TRIAL_SHARE * self.left:
            return f"skipped: one series may take {_shown(each)}, and {_shown(self.left)} are left"

        def seconds(series: np.ndarray, most: int) -> float:
            few = first_rows(panel, series, np.minimum(panel.lengths[series], most))
            return self._seconds(member, few)

        if n_series > 2 * _TRIAL_SERIES:
            chosen = np.linspace(0, n_series - 1, _TRIAL_SERIES + 1).astype(np.int64)
            seconds(chosen[:1], len(panel.targets))  # imports what it needs
            each = seconds(chosen[1:], len(panel.targets)) / _TRIAL_SERIES
        elif rows > 2 * _TRIAL_ROWS and each > 0.5:
            seconds(np.array([0]), _TRIAL_ROWS)
            each = seconds(np.array([0]), _TRIAL_ROWS) * rows / _TRIAL_ROWS
        total = each * n_series / effective_n_jobs(_parameters(member.forecaster).get("n_jobs"))
        share = min(_BASELINE_SHARE * float(self.auto.time_budget), self._spare())
        if total <= share:
            return ""
        more = f"more than its share of {_shown(max(share, 0.0))}"
        return f"skipped: {n_series} series would take {_shown(total)}, {more}"

    def _usual_seconds(self, forecaster: BaseForecaster) -> float:
        """Of a series of 1000 rows, roughly: says only whether a trial is in reach."""
        seasonal, long = self.season > 1, self.season > 12
        usual = {"NaiveForecaster": 0.1, "ThetaForecaster": 0.2}
        usual["AutoARIMAForecaster"] = 35.0 if seasonal else 3.0
        return usual.get(type(forecaster).__name__, 4.0 if long else 1.0)

    def _time_network(self, member: Candidate) -> str:
        """Predict a network's seconds from one epoch, and shorten its training to the budget."""
        networks = [trial for trial in self.trials if trial.is_network]
        same = [trial for trial in networks if trial.candidate.name == member.name]  # other seeds
        usual = min((trial.fit_seconds for trial in same or networks), default=0.0)
        begin, spare = monotonic(), self._spare()
        if usual * _LEAST_PART > spare:
            return "skipped: out of budget"
        epochs = int(_parameters(member.forecaster)["max_epochs"])
        setup, each = self._epoch_seconds(member)
        possible = int((spare - setup - (monotonic() - begin)) / max(each, 1e-9))
        if possible >= epochs:
            return ""
        if possible < min(max(_LEAST_EPOCHS, epochs * _LEAST_PART if networks else 0), epochs):
            return f"skipped: {epochs} epochs would take {_shown(each * epochs)}, out of budget"
        member.forecaster.set_params(max_epochs=possible)
        return f"{possible} of {epochs} epochs, by the budget"

    def _epoch_seconds(self, member: Candidate) -> tuple[float, float]:
        """Seconds before the first epoch, as far as they can be measured, and of an epoch."""
        batches = _parameters(member.forecaster).get("n_batches") or 0
        if batches <= _TRIAL_BATCHES:
            return 0.0, self._seconds(member, self.train, max_epochs=1)
        first = self._seconds(member, self.train, max_epochs=1, n_batches=1)
        if first > _TRIAL_SHARE * self.left:
            return first, first * batches / _TRIAL_BATCHES  # no second trial
        some = self._seconds(member, self.train, max_epochs=1, n_batches=1 + _TRIAL_BATCHES)
        return first, max(some - first, 0.0) / _TRIAL_BATCHES * batches

    # -- all of them -------------------------------------------------------------------------------

    def run_all(self, naive: list[Candidate], candidates: list[Candidate]) -> None:
        """Try the candidates in turn after the naive ones, and further seeds of good networks.

        Once four networks were tried, one that holds half of the ensemble's weight gets its further
        seeds before the next candidate; after the last candidate, all that have a weight do.
        """
        from tqdm.auto import tqdm

        if not len(self.judged):
            status = "skipped: no series is long enough to hold rows out"
            self.trials += [Trial(each.name, each, status=status) for each in candidates]
            return
        owner, n = type(self.auto).__name__, len(naive) + len(candidates)
        with tqdm(total=n, desc=owner, unit="candidate", disable=not self.auto.verbose) as self.bar:
            for candidate in naive:
                self.run(candidate, free=True)
            self._judge_by(self.trials[0].forecast)
            pending = list(candidates)
            while pending:
                varied = sum(trial.is_network for trial in self.trials) >= _VARIETY
                stars = self._repeatable(_STAR) if varied and self.left > 0 else []
                self.run(stars[0] if stars else pending.pop(0))
            for _ in range(_REPEATS):
                for candidate in self._repeatable(0.0):
                    self.run(candidate)

    def _judge_by(self, reference: Any) -> None:
        """Score what was tried so far, and from now on, beside a forecast of the held-out rows."""
        truth = self._by_series(self.panel.targets[self._rows].astype(np.float64))
        metric = self.auto.metric
        scale = series_scales(self.train, self.season, 2 if metric == "rmsse" else 1)
        self.judge = Judge(metric, truth, scale[self.judged], reference)
        for trial in self.trials:
            if trial.forecast is not None:
                trial.score = self.judge.loss(trial.forecast)

    def _repeatable(self, above: float) -> list[Candidate]:
        """Networks whose seeds together weigh more than ``above`` and that may have one more."""
        shares: dict[Candidate, float] = {}
        for trial, weight in self.weighted():
            if trial.is_network:
                shares[trial.candidate] = shares.get(trial.candidate, 0.0) + weight
        return [c for c, share in shares.items() if share > above and self._n_seeds(c) <= _REPEATS]

    def _n_seeds(self, candidate: Candidate) -> int:
        return sum(trial.candidate is candidate for trial in self.trials)

    def weighted(self) -> list[tuple[Trial, float]]:
        """The judged trials and their weights in the best ensemble of them."""
        fitted = [trial for trial in self.trials if trial.forecast is not None]
        if self.judge is None or not fitted:
            return []
        if self._weights is None or len(self._weights) != len(fitted):
            self._weights = choose_weights(self.judge, [trial.forecast for trial in fitted])
        return list(zip(fitted, self._weights.tolist()))


def _parameters(forecaster: BaseForecaster) -> dict[str, Any]:
    return forecaster.get_params(deep=False)


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
