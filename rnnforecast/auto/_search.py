"""Candidates fitted and judged within a budget of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone

from rnnforecast.auto._candidates import Candidate, Facts, prepared
from rnnforecast.auto._members import Member
from rnnforecast.auto._origins import Origins, pick
from rnnforecast.auto._selection import Judge, choose_weights
from rnnforecast.baselines import AutoARIMAForecaster, ThetaForecaster
from rnnforecast.baselines._local import LocalForecaster
from rnnforecast.data.panel import Panel
from rnnforecast.forecasters.base import BaseForecaster

__all__ = ["Search", "Trial", "progress"]

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


@dataclass
class Trial:
    """What became of one candidate.

    Attributes
    ----------
    name : str
    member : Member or None
        Fitted on the rows before the first origin, its history moved on to the last one.
    forecast : ndarray, shape (n_judged, n_origins, n_steps, n_targets), or None
    score : float
        Validation loss; NaN where there is none.
    seconds : float
        Spent on it in all.
    fit_seconds : float
        Of its last fit: what a refit will take.
    status : str
    """

    name: str
    member: Member | None = None
    forecast: np.ndarray | None = None
    score: float = float("nan")
    seconds: float = 0.0
    fit_seconds: float = 0.0
    status: str = "not chosen"
    candidate: Candidate | None = None


@dataclass
class Search:
    """Tries candidates one by one and keeps what they said.

    Attributes
    ----------
    panel : Panel
    origins : Origins
    facts : Facts
    budget : float
        Seconds from ``start``.
    refit : bool
        Seconds are set aside to fit the chosen ones once more on all rows.
    seeds : RandomState
    clock : callable
        Monotonic seconds.
    judge : Judge or None
        Set once the naive forecasts, its reference, were tried.
    told : callable or None
        ``told(name)`` is called after each candidate.
    """

    panel: Panel
    origins: Origins
    facts: Facts
    budget: float
    refit: bool
    seeds: np.random.RandomState
    clock: Callable[[], float] = time.monotonic
    start: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    judge: Judge | None = None
    told: Any = None
    _panels: list[Panel] = field(default_factory=list)
    _known: Any = None
    _weights: np.ndarray | None = None  # of the trials judged so far; these are never taken back

    def __post_init__(self) -> None:
        self._panels = [self.origins.panel(self.panel, k) for k in range(self.origins.n_origins)]
        self._known = self.origins.blocks(self.panel, self.panel.known)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.start + self.budget - self.clock()

    @property
    def first(self) -> Panel:
        """The rows before the first origin, which every candidate is fitted to."""
        return self._panels[0]

    def judge_by(self, judge: Judge) -> None:
        """Score what was tried so far, and from now on."""
        self.judge = judge
        for trial in self.trials:
            if trial.forecast is not None:
                trial.score = judge.loss(trial.forecast)

    # -- one candidate -----------------------------------------------------------------------------

    def run(self, candidate: Candidate, free: bool = False, name: str | None = None) -> Trial:
        """Try one candidate; ``free`` ones whatever the budget. Never raises for its failure."""
        begun = self.clock()
        seed = int(self.seeds.randint(2**31 - 1))  # drawn even if it is skipped: seeds stay put
        trial = Trial(name or candidate.name, candidate=candidate)
        try:
            forecaster = prepared(candidate, self.facts, seed)
            note = "" if free else self._fit_to_budget(candidate, forecaster)
            if note.startswith("skipped"):
                trial.status = note
            else:
                self._fit_and_judge(trial, forecaster, note)
        except Exception as error:
            trial.status = f"failed: {_first_line(error)}"
        trial.seconds = self.clock() - begun
        self.trials.append(trial)
        if self.told is not None:
            self.told(trial.name)
        return trial

    def _fit_and_judge(self, trial: Trial, forecaster: BaseForecaster, note: str) -> None:
        assert trial.candidate is not None
        begun = self.clock()
        member = Member(trial.name, forecaster, trial.candidate.log)
        warned = member.fit(self._panels[0])
        trial.fit_seconds = self.clock() - begun
        parts = []
        for k, panel in enumerate(self._panels):
            if k:
                member = member.moved(panel)
            known = self._known[:, k]
            parts.append(member.future(self.origins.series, self.origins.n_steps, known))
        forecast = np.stack(parts, axis=1)
        if self.judge is not None:
            score = self.judge.loss(forecast)
            if not np.isfinite(score):
                trial.status = "failed: its forecasts are not finite"
                return
            trial.score = score
        trial.member, trial.forecast = member, forecast
        notes = [note] if note else []
        notes += [f"warned: {warned[0]}"] if warned else []
        trial.status = "; ".join([trial.status, *notes])

    # -- the budget --------------------------------------------------------------------------------

    def _fit_to_budget(self, candidate: Candidate, forecaster: BaseForecaster) -> str:
        """Make the forecaster fit the budget; return what to note, "skipped: ..." if it cannot."""
        if self.left <= 0:
            return "skipped: out of budget"
        if isinstance(forecaster, LocalForecaster):
            return self._time_baseline(candidate, forecaster)
        if "max_epochs" in forecaster.get_params(deep=False):
            return self._time_network(candidate, forecaster)
        return ""

    def _spare(self) -> float:
        """Seconds left beside the refits of what would be chosen now."""
        if not self.refit:
            return self.left
        return self.left - sum(trial.fit_seconds for trial, w in self.weighted() if w > 0)

    def _time_baseline(self, candidate: Candidate, forecaster: LocalForecaster) -> str:
        """Predict the seconds of a family that cannot be interrupted from a few series."""
        panel, facts = self._panels[0], self.facts
        rows = len(panel.targets) / panel.n_series
        each = _usual_seconds(forecaster, facts) * rows / 1000 * facts.n_targets
        if each > _TRIAL_SHARE * self.left:
            return f"skipped: one series may take {_shown(each)}, and {_shown(self.left)} are left"
        if panel.n_series > 2 * _TRIAL_SERIES:
            chosen = np.linspace(0, panel.n_series - 1, _TRIAL_SERIES + 1).astype(np.int64)
            self._seconds(candidate, forecaster, chosen[:1])  # imports what it needs
            each = self._seconds(candidate, forecaster, chosen[1:]) / _TRIAL_SERIES
        elif rows > 2 * _TRIAL_ROWS and each > 0.5:
            first = np.zeros(1, dtype=np.int64)
            self._seconds(candidate, forecaster, first, _TRIAL_ROWS)
            taken = self._seconds(candidate, forecaster, first, _TRIAL_ROWS)
            each = taken * rows / _TRIAL_ROWS
        total = each * panel.n_series / effective_n_jobs(forecaster.n_jobs)
        share = min(_BASELINE_SHARE * self.budget, self._spare() / (1 + self.refit))
        if total > share:
            return (
                f"skipped: {panel.n_series} series would take {_shown(total)}, more than its "
                f"share of {_shown(max(share, 0.0))}"
            )
        return ""

    def _seconds(
        self,
        candidate: Candidate,
        forecaster: BaseForecaster,
        series: np.ndarray,
        most_rows: int | None = None,
    ) -> float:
        """Time a fit to few series."""
        lengths = self._panels[0].lengths[series]
        few = pick(self._panels[0], series, np.minimum(lengths, most_rows or lengths))
        begun = self.clock()
        Member("", clone(forecaster), candidate.log).fit(few)
        return self.clock() - begun

    def _time_network(self, candidate: Candidate, forecaster: BaseForecaster) -> str:
        """Predict a network's seconds from one epoch, and shorten its training to the budget."""
        networks = [trial for trial in self.trials if _is_network(trial)]
        same = [trial for trial in networks if trial.candidate is candidate]  # another seed of it
        usual = min((trial.fit_seconds for trial in same or networks), default=0.0)
        spare = self._spare() / (1 + self.refit)
        if usual * _LEAST_PART > spare:
            return "skipped: out of budget"
        epochs = int(forecaster.get_params(deep=False)["max_epochs"])
        begun = self.clock()
        setup, each = self._epoch_seconds(candidate, forecaster)
        spare -= self.clock() - begun + setup
        possible = int(spare / max(each, 1e-9))
        if possible >= epochs:
            return ""
        if possible < min(max(_LEAST_EPOCHS, epochs * _LEAST_PART if networks else 0), epochs):
            return f"skipped: {epochs} epochs would take {_shown(each * epochs)}, out of budget"
        forecaster.set_params(max_epochs=possible)
        return f"{possible} of {epochs} epochs, by the budget"

    def _epoch_seconds(
        self, candidate: Candidate, forecaster: BaseForecaster
    ) -> tuple[float, float]:
        """Seconds before the first epoch, as far as they can be told apart, and of an epoch."""
        batches = forecaster.get_params(deep=False).get("n_batches")
        if batches is None or batches <= _TRIAL_BATCHES:
            return 0.0, self._time_one(candidate, forecaster, max_epochs=1)
        setup = self._time_one(candidate, forecaster, max_epochs=1, n_batches=1)
        if setup > _TRIAL_SHARE * self.left:
            return setup, setup * batches / _TRIAL_BATCHES  # no second trial
        some = self._time_one(candidate, forecaster, max_epochs=1, n_batches=1 + _TRIAL_BATCHES)
        return setup, max(some - setup, 0.0) / _TRIAL_BATCHES * batches

    def _time_one(self, candidate: Candidate, forecaster: BaseForecaster, **options: int) -> float:
        one = clone(forecaster).set_params(**options)
        begun = self.clock()
        Member("", one, candidate.log).fit(self.first)
        return self.clock() - begun

    # -- all of them -------------------------------------------------------------------------------

    def run_all(self, candidates: Iterable[Candidate]) -> None:
        """Try the candidates in turn, and further seeds of the networks that do well.

        Once four networks were tried, one that holds half of the ensemble's weight gets its further
        seeds before the next candidate; after the last candidate, all that have a weight do.
        """
        pending = list(candidates)
        while pending:
            tried = [trial for trial in self.trials if _is_network(trial)]
            stars = self._repeatable(_STAR) if len(tried) >= _VARIETY else []
            if stars and self.left > 0:
                self._run_again(stars[0])
            else:
                self.run(pending.pop(0))
        for _ in range(_REPEATS):
            for candidate in self._repeatable(0.0):
                self._run_again(candidate)

    def _repeatable(self, above: float) -> list[Candidate]:
        """Networks whose seeds together weigh more than ``above`` and that may have one more."""
        shares: dict[str, float] = {}
        found: dict[str, Candidate] = {}
        for trial, weight in self.weighted():
            if trial.candidate is not None and _is_network(trial):
                name = trial.candidate.name
                found[name] = trial.candidate
                shares[name] = shares.get(name, 0.0) + weight
        return [
            candidate
            for name, candidate in found.items()
            if shares[name] > above and self._seeds_of(candidate) <= _REPEATS
        ]

    def _seeds_of(self, candidate: Candidate) -> int:
        return sum(trial.candidate is candidate for trial in self.trials)

    def _run_again(self, candidate: Candidate) -> None:
        self.run(candidate, name=f"{candidate.name}, seed {self._seeds_of(candidate) + 1}")

    def weighted(self) -> list[tuple[Trial, float]]:
        """The judged trials and their weights in the best ensemble of them."""
        fitted = [trial for trial in self.trials if trial.forecast is not None]
        if self.judge is None or not fitted:
            return []
        if self._weights is None or len(self._weights) != len(fitted):
            self._weights = choose_weights(self.judge, [_forecast(trial) for trial in fitted])
        return list(zip(fitted, self._weights.tolist()))


def _is_network(trial: Trial) -> bool:
    """Whether another seed gives another forecast."""
    return trial.member is not None and "random_state" in trial.member.forecaster.get_params(
        deep=False
    )


@contextmanager
def progress(owner: str, n: int, verbose: int) -> Iterator[Callable[[str], None] | None]:
    """A bar over the candidates, or None."""
    if not verbose:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=n, desc=owner, unit="candidate") as bar:

        def told(name: str) -> None:
            bar.total = max(bar.total, bar.n + 1)  # further seeds come on top
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield told


def _forecast(trial: Trial) -> np.ndarray:
    assert trial.forecast is not None
    return trial.forecast


def _usual_seconds(forecaster: LocalForecaster, facts: Facts) -> float:
    """Seconds that a series of 1000 rows usually takes: says only whether a trial is in reach."""
    if isinstance(forecaster, ThetaForecaster):
        return 0.2
    if isinstance(forecaster, AutoARIMAForecaster):
        return 35.0 if facts.season > 1 else 3.0
    return 1.0 if facts.season <= 12 else 4.0


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
