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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import ndtri
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from rnnforecast._validation import check_int
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.outputs import Forecast, NormalForecast
from rnnforecast.parameters import estimator

SCORES = np.linspace(-3.0, 3.0, 25)  # standard normal scores of the quantiles that are simulated


class SimulatedForecast(Forecast):
    """A centre, and deviations from it at normal scores; between and beyond them linear in the
    score, which is exact for a normal distribution.
    """

    def __init__(self, centre: torch.Tensor, deviations: torch.Tensor):
        self.centre = centre  # (..., targets)
        self.deviations = deviations  # (..., targets, 25)

    @property
    def median(self) -> torch.Tensor:
        return self.centre

    def quantile(self, levels: Sequence[float]) -> torch.Tensor:
        place = (ndtri(np.asarray(levels)) - SCORES[0]) / (SCORES[1] - SCORES[0])
        low = np.clip(np.floor(place), 0, len(SCORES) - 2).astype(int)
        left, right = self.deviations[..., low], self.deviations[..., low + 1]
        share = torch.as_tensor(place - low).to(self.centre)
        return self.centre[..., None] + torch.lerp(left, right, share.expand(left.shape))


@dataclass(frozen=True, kw_only=True)
class LocalModel(ABC):
    """What was learnt of one target of one series; small and picklable."""

    form: Any  # what it is, e.g. ETS(A,N,A)[12], as text for repr
    first: int = 0  # row of the first observed value
    converged: bool = True
    note: str = ""  # what the user should know about this fit

    @abstractmethod
    def ahead(
        self, y: np.ndarray, x: np.ndarray, origins: np.ndarray, n_steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forecasts after the first ``origins: (k,)`` rows of a history ``y: (n_rows,)`` with
        covariates ``x: (n_rows, n_known)``, less what the covariates of the steps ahead add: mean
        ``(k, n_steps)``, and deviation of that shape or ``(k, n_steps, 25)`` at ``SCORES``.
        """

    def effect(self, x: np.ndarray) -> np.ndarray | float:
        """What covariates ``x: (..., n_known)`` add to the mean."""
        return 0.0

    def updated(self, y: np.ndarray, x: np.ndarray) -> LocalModel:
        """The same model once more rows of its history are known."""
        return self

    @abstractmethod
    def moved(self, y: np.ndarray, x: np.ndarray, shift: int) -> LocalModel:
        """The same parameters for a history that starts ``shift`` rows after that of fit."""

    def describe(self) -> str:
        return str(self.form)


class Filtered(NamedTuple):
    """One-step means and variances of some rows, and the predicted state of the row after them."""

    mean: np.ndarray
    variance: np.ndarray
    state: np.ndarray
    cov: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FilterModel(LocalModel):
    """A linear state space model of statsmodels, filtered to the end of a history."""

    sigma: float  # standard deviation of the innovations
    unit: float  # the filter sees (y - trend - effect) / unit, with innovations of variance 1
    row: int  # rows that were read
    state: np.ndarray | None = None  # predicted state of the row after them; None at the start
    cov: np.ndarray | None = None

    @abstractmethod
    def space(self, values: np.ndarray) -> Any:
        """Statsmodels' model of ``values`` with the fitted parameters, at its own start."""

    @abstractmethod
    def trend(self, start: int, n: int) -> np.ndarray:
        """What is added to the filter's values in rows start..start + n - 1."""

    def run(self, y: np.ndarray, x: np.ndarray, row: int, at: Any = None) -> Filtered:
        """Filter rows from ``row`` on; ``at`` has the state after those before them."""
        if len(y) > 2000:  # statsmodels keeps the covariance of every row's state
            half = len(y) // 2
            left = self.run(y[:half], x[:half], row, at)
            right = self.run(y[half:], x[half:], row + half, left)
            mean, variance = (np.append(a, b) for a, b in zip(left[:2], right[:2], strict=True))
            return Filtered(mean, variance, right.state, right.cov)
        # a covariate may be missing only where the target is, where nothing is read
        effect = self.effect(np.nan_to_num(x))
        model = self.space((y - effect - self.trend(row, len(y))) / self.unit)
        if at is not None and at.state is not None:
            model.ssm.initialize_known(at.state, at.cov)
        found = model.ssm.filter()
        return Filtered(
            found.forecasts[0] * self.unit + self.trend(row, len(y)),
            np.maximum(found.forecasts_error_cov[0, 0], 0.0) * self.sigma**2,
            found.predicted_state[:, -1],
            found.predicted_state_cov[:, :, -1],
        )

    def updated(self, y, x):
        if len(y) == self.row:
            return self
        done = self.run(y[self.row :], x[self.row :], self.row, self)
        return replace(self, row=len(y), state=done.state, cov=done.cov)

    def one_step(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One-step mean and variance of every row; those before ``first`` have its own."""
        done = self.run(y[self.first :], x[self.first :], self.first)
        pad = (self.first, 0)
        return np.pad(done.mean, pad, mode="edge"), np.pad(done.variance, pad, mode="edge")

    def ahead(self, y, x, origins, n_steps):
        mean, variance = np.empty((2, len(origins), n_steps))
        inside = (origins < self.row) & (n_steps == 1)
        if inside.any():  # one pass for all rows of the history
            one_step = self.one_step(y[: self.row], x[: self.row])
            mean[inside, 0], variance[inside, 0] = (part[origins[inside]] for part in one_step)
        unknown = np.full(n_steps, np.nan), np.zeros((n_steps, x.shape[1]))
        origins = np.maximum(origins, self.first)
        row, at = self.row, self
        for origin in np.unique(origins[~inside]):
            if origin < row:
                row, at = self.first, None
            if origin > row:
                at = self.run(y[row:origin], x[row:origin], row, at)
                row = origin
            chosen, done = ~inside & (origins == origin), self.run(*unknown, row, at)
            mean[chosen], variance[chosen] = done.mean, done.variance
        return mean, np.sqrt(variance)


def leading_missing(y: np.ndarray) -> int:
    """Number of missing values before the first observed one."""
    return int(np.argmax(~np.isnan(y)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings inside that the user cannot act on."""
    # recorded, and so not shown, as statsmodels puts a filter of its own first when imported
    with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


_lock, _fits = threading.Lock(), 0
_limits: threadpool_limits


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread: a filter's products are far too small for more, which cost five
    times the time where cores are busy. Fits in several threads share the limit.
    """
    global _fits, _limits
    with _lock:
        if not _fits:
            _limits = threadpool_limits(1, user_api="blas")
        _fits += 1
    try:
        yield
    finally:
        with _lock:
            _fits -= 1
            if not _fits:
                _limits.restore_original_limits()


def _fit_one(fit: Callable, label: str, y: np.ndarray, x: np.ndarray, options: dict) -> LocalModel:
    try:
        with _quiet():
            return fit(y, x, **options)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{label}: the model could not be fitted ({error}): use a simpler one, or leave this "
            f"series out"
        ) from error


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
    def _local_fit(self, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        """A module-level function ``fit(y, x, **options) -> LocalModel`` and its options."""

    def _season(self, panel: Panel) -> int:
        return choose_seasonality(panel) if self.seasonality is None else int(self.seasonality)

    # -- hooks of BaseForecaster ------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        check_int(type(self).__name__, "seasonality", self.seasonality, none=True)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner = type(self).__name__
        check_values(owner, panel, 2)
        self._check_covariates(panel, np.zeros(panel.n_series, dtype=np.int64))
        seasonality = self._season(panel)
        fit, options = self._local_fit(seasonality)
        width = panel.targets.shape[1]
        places = [(i, k) for i in range(panel.n_series) for k in range(width)]
        labels = [_label(panel, i, k) for i, k in places]
        with _one_blas_thread():
            models = Parallel(n_jobs=self.n_jobs)(
                delayed(_fit_one)(fit, f"{owner}: {label}", *self._rows(panel, *place), options)
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
        place = self._place(history)
        if fresh:
            check_values(type(self).__name__, history, 2)
        read = np.zeros(history.n_series, dtype=np.int64)
        if not fresh:
            read[: self.panel_.n_series] = self.panel_.lengths
        self._check_covariates(history, read)
        models: list[list[LocalModel]] = []
        with _quiet():
            for i, old in enumerate(place):
                shift = self._shift(history, i, int(old)) if fresh else 0
                models.append([])
                for k, model in enumerate(self.models_[old] if old >= 0 else ()):
                    rows = self._rows(history, i, k)
                    new = model.moved(*rows, shift) if fresh else model.updated(*rows)
                    models[-1].append(new)
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
        mean, deviation = (
            np.full(shape, np.nan),
            np.full(shape, np.nan),
        )  # of series without a model
        simulated: np.ndarray | None = None
        with _quiet():
            for i, rows in group_rows(series):
                for k, model in enumerate(self.models_[i]):
                    centre, width = model.ahead(*self._rows(history, i, k), origins[rows], n_steps)
                    mean[rows, :, k] = centre + model.effect(known[rows])
                    if width.ndim == 2:
                        deviation[rows, :, k] = width
                        continue
                    if simulated is None:
                        simulated = np.full((*shape, len(SCORES)), np.nan)
                    simulated[rows, :, k] = width
        if simulated is None:
            return NormalForecast(torch.from_numpy(mean), torch.from_numpy(deviation))
        normal = np.isnan(simulated[..., :1])
        simulated = np.where(normal, deviation[..., None] * SCORES, simulated)
        return SimulatedForecast(torch.from_numpy(mean), torch.from_numpy(simulated))

    # -- rows -------------------------------------------------------------------------------------

    def _rows(self, panel: Panel, i: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Target k, shape (n_rows,), and the covariates in use, (n_rows, n_known), of series i."""
        rows = panel.series(i)
        known = panel.known[rows, : None if self._uses_known else 0]
        return panel.targets[rows, k].astype(np.float64), known.astype(np.float64)

    def _check_covariates(self, panel: Panel, read: np.ndarray) -> None:
        """Raise where a target is observed and a covariate is not, after the rows ``read``."""
        if not self._uses_known:
            return
        series = np.repeat(np.arange(panel.n_series), panel.lengths)
        row = np.arange(len(series)) - panel.indptr[series]
        looked_at = panel.mask.any(axis=1) & (row >= read[series])
        bad = np.isnan(panel.known) & looked_at[:, None]
        if bad.any():
            at, column = np.argwhere(bad)[0]
            i = int(series[at])
            raise DataError(
                f"{type(self).__name__}: {panel.label(i)}: known covariate number {column + 1} is "
                f"missing (NaN) at row {panel.time_index(i)[int(row[at])]}: fill it or drop the "
                f"row first, as a regression cannot use it"
            )

    # -- scikit-learn -----------------------------------------------------------------------------

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = not self._uses_known
        return tags

    def _describe(self) -> list[str]:
        forms = Counter(model.describe() for models in self.models_ for model in models)
        if len(forms) == 1:
            return [next(iter(forms)), *super()._describe()]
        shown = ", ".join(f"{form} x {count}" for form, count in forms.most_common(3))
        more = f", {len(forms) - 3} other forms" if len(forms) > 3 else ""
        return [shown + more, *super()._describe()]

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
    found: dict[str, list[str]] = {}
    trouble = (
        "the optimiser did not converge, and the best parameters found are used: "
        "raise maxiter= where there is one, or choose a simpler model"
    )
    for label, model in zip(labels, models, strict=True):
        for note in (model.note, "" if model.converged else trouble):
            found.setdefault(note, []).append(label)
    found.pop("", None)
    for note, those in found.items():
        names = "; ".join(those[:3]) + (f"; and {len(those) - 3} more" if len(those) > 3 else "")
        warnings.warn(f"{owner}: {names}: {note}", ConvergenceWarning, stacklevel=5)
