"""Models that are fitted to each series and each target alone, behind the one forecast hook.

A family is a ``LocalModel`` (what was learnt of one target of one series) and a ``LocalForecaster``
that says how to fit it. The walk over series and targets, covariates, warnings and errors are here,
and so is what all models have in common that run through a Kalman filter of statsmodels.
"""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from rnnforecast._validation import check_int
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.outputs import Forecast, NormalForecast
from rnnforecast.parameters import estimator

_UNKNOWN = 1e4  # a variance this far above that of the innovations: the level is not known yet
_BLOCK = 1000  # rows filtered at once


@dataclass(frozen=True, kw_only=True)
class LocalModel(ABC):
    """What was learnt of one target of one series; small and picklable."""

    form: Any  # what it is, e.g. ETS(A,N,A)[12], as text for repr
    sigma: float  # standard deviation of the errors one step ahead
    first: int = 0  # row of the first observed value
    beta: np.ndarray | tuple = ()  # coefficients of the covariates
    converged: bool = True
    note: str = ""  # what the user should know about this fit

    def ahead(
        self, y: np.ndarray, x: np.ndarray, origins: np.ndarray, n_steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean, less the effect of the covariates ahead, and standard deviation ``(k, n_steps)``
        after the first ``origins: (k,)`` rows of a history ``y: (n_rows,)``, ``x: (n_rows, n)``.
        """
        mean, deviation = np.empty((2, len(origins), n_steps))
        inside, origins = (origins < len(y)) & (n_steps == 1), np.maximum(origins, self.first)
        if inside.any():
            at = origins[inside] - self.first
            mean[inside, 0], deviation[inside, 0] = (part[at] for part in self.one_step(y, x))
        model = self
        for origin in np.unique(origins[~inside]):
            model, chosen = model.after(origin, y, x), ~inside & (origins == origin)
            mean[chosen], deviation[chosen] = model.steps(y[: max(origin, self.first + 1)], n_steps)
        return mean, deviation

    @abstractmethod
    def one_step(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every row from ``first`` on, by the rows before it."""

    @abstractmethod
    def steps(self, y: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the steps after a history that the state is of."""

    @abstractmethod
    def moved(self, y: np.ndarray, x: np.ndarray, shift: int) -> LocalModel:
        """The same parameters for a history that starts ``shift`` rows after that of fit."""

    def after(self, row: int, y: np.ndarray, x: np.ndarray) -> LocalModel:
        """The same with the state after the first ``row`` rows of the history."""
        return self

    def effect(self, x: np.ndarray) -> np.ndarray | float:
        """What covariates ``x: (..., n_known)`` add to the mean."""
        return x @ np.asarray(self.beta) if len(self.beta) else 0.0

    @abstractmethod
    def estimates(self, known: list) -> dict[str, float]:
        """Parameters by name, those of the covariates ``known`` among them."""


@dataclass(frozen=True, kw_only=True)
class FilterModel(LocalModel):
    """A linear state space model of statsmodels, filtered to some row of a history.

    The filter sees ``(y - centre - slopes @ time - beta @ x) / unit``, with innovations of
    variance 1.
    """

    unit: float
    centre: float = 0.0
    slopes: dict[int, float] = field(default_factory=dict)  # power of time -> coefficient
    time: int = 0  # of row 0
    row: int = 0  # rows that were read
    state: np.ndarray | None = None  # predicted state of the row after them; None at the start
    cov: np.ndarray | None = None

    @abstractmethod
    def space(self, values: np.ndarray) -> Any:
        """Statsmodels' model of ``values`` with the fitted parameters, at its own start."""

    def trend(self, row: int, n: int) -> np.ndarray:
        """What is added to the filter's values in ``n`` rows from ``row`` on."""
        time = self.time + row + np.arange(float(n))
        return sum((b * time**power for power, b in self.slopes.items()), np.full(n, self.centre))

    def run(
        self, y: np.ndarray, x: np.ndarray, end_only: bool = False
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """One-step means, variances over sigma² of the rows after those that were read, and the
        model with the state after them; with ``end_only`` nothing else, in less time and memory.
        """
        trend = self.trend(self.row, len(y))
        # a covariate may be missing only where the target is, where nothing is read
        model = self.space((y - trend - self.effect(np.nan_to_num(x))) / self.unit)
        if self.state is not None:
            model.ssm.initialize_known(self.state, self.cov)
        if end_only:
            model.ssm.memory_conserve, model.ssm.memory_no_forecast = True, False
        found = model.ssm.filter()
        mean = found.forecasts[0] * self.unit + trend
        variance = np.maximum(found.forecasts_error_cov[0, 0], 0.0)
        state, cov = found.predicted_state[:, -1], found.predicted_state_cov[:, :, -1]
        return mean, variance, replace(self, row=self.row + len(y), state=state, cov=cov)

    def restarted(self, **changes: Any) -> Any:
        """The same before its first observed row."""
        first = changes.get("first", self.first)
        return replace(self, **{"row": first, "state": None, "cov": None, **changes})

    def after(self, row, y, x):
        start = self if row >= self.row else self.restarted()
        read = slice(start.row, row)
        return start if row == start.row else start.run(y[read], x[read], end_only=True)[2]

    def one_step(self, y, x):
        model, parts = self.restarted(), []
        while model.row < len(y):  # statsmodels keeps the covariance of every row's state
            read = slice(model.row, model.row + _BLOCK)
            *part, model = model.run(y[read], x[read])
            parts.append(part)
        mean, variance = np.hstack(parts)
        # where the level is not known yet, the last value, or the mean before the first one
        last = pd.Series(y[self.first :]).ffill().shift().fillna(np.nanmean(y))
        return np.where(variance > _UNKNOWN, last, mean), self.sigma * np.sqrt(variance)

    def steps(self, y, n_steps):
        unknown = np.full(n_steps, np.nan), np.zeros((n_steps, len(self.beta)))
        mean, variance, _ = self.run(*unknown)
        return mean, self.sigma * np.sqrt(variance)


def leading_missing(y: np.ndarray) -> int:
    """Number of missing values before the first observed one."""
    return int(np.argmax(~np.isnan(y)))


def spread(values: np.ndarray) -> float:
    """Standard deviation of the observed values, 0 where it is rounding."""
    seen = values[~np.isnan(values)]
    deviation = float(seen.std()) if len(seen) else 0.0
    return deviation if deviation > 1e-12 * np.abs(seen).max(initial=0.0) else 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings inside that the user cannot act on."""
    # recorded, and so not shown, as statsmodels puts a filter of its own first when imported
    with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _fit_one(fit: Callable, label: str, y: np.ndarray, x: np.ndarray) -> LocalModel:
    try:
        with _quiet():
            return fit(y, x).after(len(y), y, x)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{label}: the model could not be fitted ({error}): use a simpler one, or leave this "
            f"series out"
        ) from error


_one_fit = threading.Lock()  # limits set by two threads would undo each other


@estimator
class LocalForecaster(BaseForecaster):
    """Base of forecasters with one model for each series and target.

    Parameters
    ----------
    seasonality : int, optional
        Steps in a season; None: that of the calendar, else what the autocorrelation says.
    n_jobs : int, optional
        Number of processes over the series of a panel; None is 1.
    """

    seasonality: int | None = None
    n_jobs: int | None = None

    _uses_known = False  # whether covariates take part

    if TYPE_CHECKING:  # fitted, and so no parameters
        models_: list[list[LocalModel]] = field(init=False)
        seasonality_: int = field(init=False)

    @abstractmethod
    def _fitter(self, seasonality: int) -> Callable[[np.ndarray, np.ndarray], LocalModel]:
        """What fits a model to ``y: (n_rows,)`` and ``x: (n_rows, n_known)``; picklable."""

    def _season(self, panel: Panel) -> int:
        return choose_seasonality(panel) if self.seasonality is None else int(self.seasonality)

    # -- hooks of BaseForecaster ------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        check_int(type(self).__name__, "seasonality", self.seasonality, none=True)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner, width = type(self).__name__, panel.targets.shape[1]
        check_values(owner, panel, 2)
        self._check_covariates(panel)
        seasonality = self._season(panel)
        fit = self._fitter(seasonality)
        places = [(i, k) for i in range(panel.n_series) for k in range(width)]
        labels = [_label(panel, *place) for place in places]
        # a filter's products are far too small for several threads
        with _one_fit, threadpool_limits(1, user_api="blas"):
            models = Parallel(n_jobs=self.n_jobs)(
                delayed(_fit_one)(fit, f"{owner}: {label}", *self._rows(panel, *place))
                for label, place in zip(labels, places, strict=True)
            )
        _report(owner, labels, models)
        models = [models[i : i + width] for i in range(0, len(models), width)]
        return {"models_": models, "seasonality_": seasonality}

    def _admit(self, history: Panel) -> None:
        place = self._place(history)
        if (place < 0).any():
            raise DataError(
                f"{type(self).__name__} has a model for each series it was fitted to, and none for "
                f"{history.label(int(np.argmax(place < 0)))}: fit it on this series"
            )

    def _place(self, history: Panel) -> np.ndarray:
        """Which series of fit each series of a history is; -1 for a new one."""
        same = history.is_panel == self.panel_.is_panel
        return self.panel_.ids.get_indexer(history.ids) if same else np.full(history.n_series, -1)

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        if fresh:
            check_values(type(self).__name__, history, 2)
        self._check_covariates(history)
        models: list[list[LocalModel]] = []
        with _quiet():
            for i, old in enumerate(self._place(history)):
                models.append([])
                for k, model in enumerate(self.models_[old] if old >= 0 else ()):
                    y, x = self._rows(history, i, k)
                    new = model.moved(y, x, self._shift(history, i, int(old))) if fresh else model
                    models[-1].append(new.after(len(y), y, x))
        return {"models_": models}

    def _shift(self, history: Panel, i: int, old: int) -> int:
        """Rows between the start of series ``old`` in fit and that of series i in ``history``."""
        calendar, starts = self.panel_.calendar, self.panel_.starts
        if calendar is None or starts is None or history.starts is None:
            return 0
        first = history.starts[[i]]
        inside = self.panel_.time_index(old).get_indexer(first)[0]  # rows may be their own grid
        return int(inside if inside >= 0 else calendar.steps(starts[old], first)[0])

    def _forecast(
        self,
        history: Panel,
        series: np.ndarray,
        origins: np.ndarray,
        n_steps: int,
        known: np.ndarray,
    ) -> Forecast:
        shape = len(series), n_steps, history.targets.shape[1]
        mean, deviation = np.full((2, *shape), np.nan)  # of series without a model
        with _quiet():
            for i, rows in group_rows(series):
                for k, model in enumerate(self.models_[i]):
                    centre, width = model.ahead(*self._rows(history, i, k), origins[rows], n_steps)
                    mean[rows, :, k] = centre + model.effect(known[rows])
                    deviation[rows, :, k] = width
        return NormalForecast(torch.from_numpy(mean), torch.from_numpy(deviation))

    # -- rows -------------------------------------------------------------------------------------

    def _rows(self, panel: Panel, i: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Target k, shape (n_rows,), and the covariates in use, (n_rows, n_known), of series i."""
        rows = panel.series(i)
        known = panel.known[rows, : None if self._uses_known else 0]
        return panel.targets[rows, k].astype(np.float64), known.astype(np.float64)

    def _check_covariates(self, panel: Panel) -> None:
        """Raise where a target is observed and a covariate is not."""
        bad = np.isnan(panel.known) & panel.mask.any(axis=1, keepdims=True)
        if self._uses_known and bad.any():
            row, column = (int(place) for place in np.argwhere(bad)[0])
            i = int(np.searchsorted(panel.indptr, row, side="right")) - 1
            stamp = panel.time_index(i)[row - panel.indptr[i]]
            raise DataError(
                f"{type(self).__name__}: {panel.label(i)}: known covariate number {column + 1} is "
                f"missing (NaN) at row {stamp}: fill it or drop the row first, as a regression "
                f"cannot use it"
            )

    # -- scikit-learn and fitted values -----------------------------------------------------------

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = not self._uses_known
        return tags

    def _describe(self) -> list[str]:
        forms = Counter(str(model.form) for models in self.models_ for model in models)
        shown = [f"{form} x {n}" if len(forms) > 1 else form for form, n in forms.most_common(3)]
        return [", ".join(shown + ["..."] * (len(forms) > 3)), *super()._describe()]

    def _per_series(self, value: Callable[[Any], Any], name: str) -> Any:
        """A fitted value of every model: itself for one, a frame (series × target) for more."""
        if "models_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {name} before fit")
        values = [[value(model) for model in models] for models in self.models_]
        if not self.panel_.is_panel and len(values[0]) == 1:
            return values[0][0]
        columns = zip(self.target_names_, zip(*values, strict=True), strict=True)
        ids = self.panel_.ids
        return pd.DataFrame({name: pd.Series(list(column), index=ids) for name, column in columns})

    @property
    def converged_(self) -> Any:
        """Whether the optimiser met its criterion: a bool, or a frame (series × target)."""
        return self._per_series(lambda model: model.converged, "converged_")

    @property
    def params_(self) -> Any:
        """Estimates by name: a Series, or a frame (series × target) of them."""
        return self._per_series(
            lambda model: pd.Series(model.estimates(self.roles_.known), dtype="float64"), "params_"
        )


def check_values(owner: str, panel: Panel, least: int) -> None:
    """Raise unless every target of every series has ``least`` (1 or 2) observed values."""
    seen = np.add.reduceat(panel.mask, panel.indptr[:-1], axis=0, dtype=np.int64)
    if (seen < least).any():
        i, k = (int(place) for place in np.argwhere(seen < least)[0])
        count = "no observed value" if seen[i, k] == 0 else "1 sample (n_samples=1)"
        raise DataError(
            f"{owner}: {_label(panel, i, k)} has {count}; at least {least} observed values are "
            f"needed: pass more rows, or leave this series out"
        )


def _label(panel: Panel, i: int, k: int) -> str:
    n_targets = panel.targets.shape[1]
    return panel.label(i) + (f", target {k + 1} of {n_targets}" if n_targets > 1 else "")


def _report(owner: str, labels: list[str], models: list[LocalModel]) -> None:
    """One warning for each kind of trouble, naming the first few series."""
    trouble = (
        "the optimiser did not converge, and the best parameters found are used: "
        "raise maxiter= where there is one, or choose a simpler model"
    )
    notes = [(model.note, "" if model.converged else trouble) for model in models]
    for note in dict.fromkeys(note for pair in notes for note in pair if note):
        those = [label for label, pair in zip(labels, notes, strict=True) if note in pair]
        names = "; ".join(those[:3]) + (f"; and {len(those) - 3} more" if len(those) > 3 else "")
        warnings.warn(f"{owner}: {names}: {note}", ConvergenceWarning, stacklevel=5)
