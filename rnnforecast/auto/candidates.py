"""What AutoForecaster tries, in order: one row for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sklearn.base import clone

from rnnforecast.baselines import (
    ARIMAForecaster,
    AutoARIMAForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
)
from rnnforecast.baselines._local import LocalForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import (
    BiGRUForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    ESRNNForecaster,
    SegmentRNNForecaster,
)
from rnnforecast.forecasters.base import BaseForecaster

__all__ = ["TABLE", "Candidate", "Facts", "given", "naive_candidates", "prepared", "table"]


@dataclass(frozen=True)
class Facts:
    """What decides which candidates apply, and what they are given.

    Attributes
    ----------
    horizon, season : int
    season_given : bool
        The season is the user's; else it is passed on to baselines alone, as networks choose theirs
        by the same rule, or by one of their own.
    n_series, n_targets : int
    shortest : int
        Rows of the shortest series before the first origin.
    positive : bool
        All observed targets are above zero.
    n_jobs : int or None
    device : str
    """

    horizon: int
    season: int
    season_given: bool
    n_series: int
    n_targets: int
    shortest: int
    positive: bool
    n_jobs: int | None
    device: str


def _always(facts: Facts) -> bool:
    return True


def _positive(facts: Facts) -> bool:
    return facts.positive


def _seasonal(facts: Facts) -> bool:
    return facts.season > 1


def _few(facts: Facts) -> bool:
    return facts.n_series * facts.n_targets <= 20


@dataclass(frozen=True)
class Candidate:
    """One thing to try.

    Attributes
    ----------
    name : str
    make : callable
        ``make(facts)`` gives an unfitted forecaster.
    log : bool
        Fitted to the logarithms of the targets: for series whose swings grow with their level.
    when : callable
        ``when(facts)``: whether it applies.
    """

    name: str
    make: Callable[[Facts], BaseForecaster]
    log: bool = False
    when: Callable[[Facts], bool] = _always


def _new(cls: Callable[..., BaseForecaster], **options: Any) -> Callable[[Facts], BaseForecaster]:
    def make(facts: Facts) -> BaseForecaster:
        return cls(**options)

    return make


def _airline(facts: Facts) -> BaseForecaster:
    """The airline model of Box & Jenkins, by conditional least squares for long seasons."""
    method = "css" if facts.season > 12 else "mle"
    return ARIMAForecaster(order=(0, 1, 1), seasonal_order=(0, 1, 1), method=method)


_NAIVE = (
    Candidate("naive", _new(NaiveForecaster, strategy="last")),
    Candidate("seasonal naive", _new(NaiveForecaster, strategy="seasonal"), when=_seasonal),
    Candidate("drift", _new(NaiveForecaster, strategy="drift")),
)


def _weekly(facts: Facts) -> BaseForecaster:
    """A network whose season is the week of a daily season, a day folded into one step."""
    week = 7 * facts.season
    return DeepGRUForecaster(lookback=2 * week, seasonality=week, segment=facts.season, **_LARGE)


def _has_weeks(facts: Facts) -> bool:
    """A day of hours or less, and rows enough for windows of two weeks."""
    room = facts.shortest - 2 * facts.horizon
    return facts.season in (24, 48, 96, 144) and 14 * facts.season <= room


_LARGE: dict[str, Any] = {"hidden_size": 64, "batch_size": 128}

# Cheap ones first, then by what each brought for a second on M4 Hourly (benchmarks/RESULTS.md).
TABLE = (
    Candidate("small GRU", _new(DeepGRUForecaster, hidden_size=16, n_layers=1, max_epochs=10)),
    Candidate("Theta", _new(ThetaForecaster)),
    Candidate("ETS", _new(ETSForecaster)),
    Candidate("ARIMA(2,1,1)", _new(ARIMAForecaster, order=(2, 1, 1)), when=_few),
    Candidate("airline ARIMA", _airline, when=lambda facts: _few(facts) and _seasonal(facts)),
    Candidate("LSTM of logs", _new(DeepLSTMForecaster, **_LARGE), log=True, when=_positive),
    Candidate("ES-RNN", _new(ESRNNForecaster)),
    Candidate("LSTM", _new(DeepLSTMForecaster, **_LARGE)),
    Candidate(
        "GRU of logs, weekly",
        _weekly,
        log=True,
        when=lambda facts: _positive(facts) and _has_weeks(facts),
    ),
    Candidate("GRU of logs", _new(DeepGRUForecaster, **_LARGE), log=True, when=_positive),
    Candidate("SegRNN", _new(SegmentRNNForecaster)),
    Candidate("BiGRU", _new(BiGRUForecaster, **_LARGE)),
    Candidate("auto ARIMA", _new(AutoARIMAForecaster), when=_few),
)


def table(facts: Facts) -> list[Candidate]:
    """The rows of the table that apply."""
    return [row for row in TABLE if row.when(facts)]


def naive_candidates(facts: Facts) -> list[Candidate]:
    """What is tried in any case, whatever the budget."""
    return [row for row in _NAIVE if row.when(facts)]


def given(owner: str, candidates: Any) -> list[Candidate]:
    """Candidates from the user's own forecasters: a list, or a mapping of names to them."""
    if isinstance(candidates, Mapping):
        named = [(str(name), forecaster) for name, forecaster in candidates.items()]
    else:
        single = isinstance(candidates, (str, BaseForecaster)) or not hasattr(
            candidates, "__iter__"
        )
        named = []
        for forecaster in [candidates] if single else list(candidates):
            base = name = type(forecaster).__name__
            number = 2
            while name in [taken for taken, _ in named]:
                name, number = f"{base}-{number}", number + 1
            named.append((name, forecaster))
    for name, forecaster in named:
        if not isinstance(forecaster, BaseForecaster):
            raise DataError(
                f"{owner}: candidates must be forecasters of rnnforecast, in a list or by name. "
                f"Got {forecaster!r} for {name!r}"
            )
    return [Candidate(name, partial(_copy, forecaster)) for name, forecaster in named]


def _copy(forecaster: BaseForecaster, facts: Facts) -> BaseForecaster:
    return clone(forecaster)


def prepared(candidate: Candidate, facts: Facts, seed: int) -> BaseForecaster:
    """The candidate's forecaster with the horizon, and with what its own parameters leave open."""
    forecaster = candidate.make(facts)
    parameters = forecaster.get_params(deep=False)
    open_ones: dict[str, tuple[Any, Any]] = {
        "random_state": (None, seed),
        "n_jobs": (None, facts.n_jobs),
        "device": ("auto", facts.device),
    }
    if facts.season_given or isinstance(forecaster, LocalForecaster):
        open_ones["seasonality"] = (None, facts.season)
    values = {
        name: value
        for name, (default, value) in open_ones.items()
        if name in parameters and parameters[name] == default
    }
    return forecaster.set_params(horizon=facts.horizon, **values)
