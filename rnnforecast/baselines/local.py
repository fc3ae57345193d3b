"""Models that are fitted to each series and each target alone, behind the one forecast hook.

A family is one ``LocalModel`` (what was learnt of one target of one series, small and picklable)
and one ``LocalForecaster`` that says how to fit it. The walk over series and targets, joblib,
covariates and warnings are here, and so are the models that a Kalman filter of statsmodels runs.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import ndtri
from sklearn.exceptions import ConvergenceWarning

from rnnforecast._validation import check_int
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.outputs import Forecast, NormalForecast

__all__ = ["FilterModel", "Filtered", "LocalForecaster", "LocalModel", "SimulatedForecast"]

# standard normal scores at which simulated forecasts keep their quantiles
SCORES = np.linspace(-3.0, 3.0, 25)


class SimulatedForecast(Forecast):
    """Distributions given by their quantiles at normal scores, linear in the score between them.

    Parameters
    ----------
    centre : Tensor, shape (..., targets)
        The point forecast.
    deviations : Tensor, shape (..., targets, 25)
        Quantiles less the centre at the scores -3, -2.75, ..., 3; a normal distribution is exact.
    """

    def __init__(self, centre: torch.Tensor, deviations: torch.Tensor):
        self.centre = centre
        self.deviations = deviations

    @property
    def median(self) -> torch.Tensor:
        return self.centre

    def _at(self, scores: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Values at ``scores``, (..., targets), in ``table``, (..., targets, 25)."""
        place = (scores - SCORES[0]) / (SCORES[1] - SCORES[0])
        low = place.floor().long().clamp(0, len(SCORES) - 2)  # tails go on in a straight line
        left = table.gather(-1, low[..., None])[..., 0]
        right = table.gather(-1, low[..., None] + 1)[..., 0]
        return left + (right - left) * (place - low)

    def quantile(self, levels: Sequence[float]) -> torch.Tensor:
        scores = torch.as_tensor(ndtri(np.asarray(levels, dtype=np.float64))).to(self.centre)
        parts = [self._at(s.expand(self.centre.shape), self.deviations) for s in scores]
        return self.centre[..., None] + torch.stack(parts, -1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        shape = (n, *self.centre.shape)
        scores = torch.randn(shape, generator=generator, dtype=self.centre.dtype)
        return self.centre + self._at(scores, self.deviations.expand(*shape, -1))


@dataclass(frozen=True, kw_only=True)
class LocalModel(ABC):
    """What was learnt of one target of one series.

    Attributes
    ----------
    converged : bool
        False if the optimiser stopped before its own criterion was met.
    note : str
        What the user should know about this fit; empty if nothing.
    first : int
        Row of the first observed value.
    """

    converged: bool = True
    note: str = ""
    first: int = 0

    @abstractmethod
    def ahead(
        self, y: np.ndarray, x: np.ndarray, origins: np.ndarray, n_steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forecasts of the rows after the first ``origins`` rows, less what their covariates add.

        Parameters
        ----------
        y, x : ndarray, shape (n_rows,) and (n_rows, n_known)
            The whole history.
        origins : ndarray of int, shape (k,)
        n_steps : int

        Returns
        -------
        mean : ndarray, shape (k, n_steps)
        deviation : ndarray, shape (k, n_steps), or (k, n_steps, 25) at ``SCORES`` if not normal
        """

    def effect(self, x: np.ndarray) -> np.ndarray | float:
        """What covariates ``x``, shape (..., n_known), add to the mean, shape (...)."""
        return 0.0

    def updated(self, y: np.ndarray, x: np.ndarray) -> LocalModel:
        """The same model once more rows of the history are known."""
        return self

    @abstractmethod
    def moved(self, y: np.ndarray, x: np.ndarray, shift: int) -> LocalModel:
        """The same parameters for a history that starts ``shift`` rows after that of fit."""

    @abstractmethod
    def describe(self) -> str:
        """Form of the model for ``repr``, e.g. ``ETS(A,N,A)[12]``."""


class Filtered(NamedTuple):
    """One-step means and variances of some rows, and the predicted state of the row after them."""

    mean: np.ndarray
    variance: np.ndarray
    state: np.ndarray
    cov: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FilterModel(LocalModel):
    """A linear state space model of statsmodels, filtered up to the end of the history.

    Attributes
    ----------
    sigma : float
        Standard deviation of the innovations.
    unit : float
        The filter sees ``(y - trend - effect of covariates) / unit``; its innovations have
        variance 1.
    row : int
        Rows of the history that the filter has read, which starts at ``first``.
    state, cov : ndarray or None
        Predicted state of the row after these; None stands for the model's own start.
    """

    sigma: float
    unit: float
    row: int
    state: np.ndarray | None = None
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
            middle = len(y) // 2
            left = self.run(y[:middle], x[:middle], row, at)
            right = self.run(y[middle:], x[middle:], row + middle, left)
            joined = [np.concatenate(parts) for parts in zip(left[:2], right[:2], strict=True)]
            return Filtered(*joined, right.state, right.cov)
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
        if inside.any():  # one pass for the rows of the history
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
def quiet() -> Iterator[None]:
    """Keep warnings inside that the user cannot act on."""
    # recorded, and so not shown, as statsmodels puts a filter of its own first when imported
    with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _fit_one(fit: Callable, label: str, y: np.ndarray, x: np.ndarray, options: dict) -> LocalModel:
    try:
        with quiet():
            return fit(y, x, **options)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{label}: the model could not be fitted ({error}): use a simpler one, or leave this "
            f"series out"
        ) from error


class LocalForecaster(BaseForecaster):
    """Base of forecasters with one ``LocalModel`` for each series and target.

    Subclasses implement ``_local_fit`` and say with ``_uses_known`` whether covariates take part.
    """

    n_jobs: int | None
    models_: list[list[LocalModel]]
    seasonality_: int

    _uses_known = False

    @abstractmethod
    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        """A module-level function ``fit(y, x, **options) -> LocalModel`` and its options."""

    def _season(self, panel: Panel) -> int:
        """Seasonal period: the parameter, or the one that all forecasters choose."""
        given = self.get_params(deep=False)["seasonality"]
        return choose_seasonality(panel) if given is None else int(given)

    # -- hooks of BaseForecaster ------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "seasonality", self.get_params(deep=False)["seasonality"], none=True)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner = type(self).__name__
        check_values(owner, panel, 2)
        self._check_covariates(panel, np.zeros(panel.n_series, dtype=np.int64))
        seasonality = self._season(panel)
        fit, options = self._local_fit(panel, seasonality)
        n_targets = panel.targets.shape[1]
        places = [(i, k) for i in range(panel.n_series) for k in range(n_targets)]
        models = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_one)(
                fit, f"{owner}: {_label(panel, i, k)}", *self._rows(panel, i, k), options
            )
            for i, k in places
        )
        _report(owner, panel, places, models)
        return {
            "models_": [models[i * n_targets : (i + 1) * n_targets] for i in range(panel.n_series)],
            "seasonality_": seasonality,
        }

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        same = history.is_panel == self.panel_.is_panel
        known = self.panel_.ids.get_indexer(history.ids) if same else np.full(history.n_series, -1)
        if (known < 0).any():
            raise DataError(
                f"{type(self).__name__} has a model for each series it was fitted to, and none for "
                f"{history.label(int(np.argmax(known < 0)))}: fit it on this series"
            )
        if fresh:
            check_values(type(self).__name__, history, 2)
        start = np.zeros(history.n_series, dtype=np.int64) if fresh else self.panel_.lengths
        self._check_covariates(history, start)
        models = []
        with quiet():
            for i, old in enumerate(known):
                shift = self._shift(history, i, int(old)) if fresh else 0
                rows = [self._rows(history, i, k) for k in range(history.targets.shape[1])]
                models.append(
                    [
                        model.moved(y, x, shift) if fresh else model.updated(y, x)
                        for model, (y, x) in zip(self.models_[old], rows, strict=True)
                    ]
                )
        return {"models_": models}

    def _shift(self, history: Panel, i: int, old: int) -> int:
        """Rows between the start of series ``old`` in fit and that of series i in ``history``."""
        if self.panel_.starts is None or history.starts is None:
            return 0
        own, first = self.panel_.time_index(old), history.starts[[i]]
        inside = own.get_indexer(first)[0]  # where the rows are their own grid
        if inside >= 0:
            return int(inside)
        assert self.panel_.calendar is not None
        return int(self.panel_.calendar.steps(self.panel_.starts[old], first)[0])

    def _forecast(
        self,
        history: Panel,
        series: np.ndarray,
        origins: np.ndarray,
        n_steps: int,
        known: np.ndarray,
    ) -> Forecast:
        shape = len(series), n_steps, history.targets.shape[1]
        mean, spread = np.empty(shape), np.empty((*shape, len(SCORES)))
        normal, deviation = True, np.empty(shape)
        with quiet():
            for i, rows in group_rows(series):
                for k, model in enumerate(self.models_[i]):
                    y, x = self._rows(history, i, k)
                    centre, width = model.ahead(y, x, origins[rows], n_steps)
                    mean[rows, :, k] = centre + model.effect(known[rows])
                    normal &= width.ndim == 2
                    if width.ndim == 2:
                        deviation[rows, :, k] = width
                        width = width[..., None] * SCORES
                    spread[rows, :, k] = width
        if normal:
            return NormalForecast(torch.from_numpy(mean), torch.from_numpy(deviation))
        return SimulatedForecast(torch.from_numpy(mean), torch.from_numpy(spread))

    # -- rows -------------------------------------------------------------------------------------

    def _rows(self, panel: Panel, i: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Target k, shape (n_rows,), and the covariates in use, (n_rows, n_known), of series i."""
        rows = panel.series(i)
        known = panel.known[rows] if self._uses_known else np.empty((int(panel.lengths[i]), 0))
        return panel.targets[rows, k].astype(np.float64), known.astype(np.float64)

    def _check_covariates(self, panel: Panel, start: np.ndarray) -> None:
        """Raise where a target is observed and a covariate is not, from row start[i] on."""
        if not self._uses_known or not panel.known.shape[1]:
            return
        series = np.repeat(np.arange(panel.n_series), panel.lengths)
        row = np.arange(len(series)) - panel.indptr[series]
        bad = np.isnan(panel.known) & panel.mask.any(axis=1)[:, None]
        bad &= (row >= start[series])[:, None]
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
        ids = self.panel_.ids
        columns = zip(self.target_names_, zip(*values, strict=True), strict=True)
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
            f"{owner}: {_label(panel, i, k)} has {count}; at least {least} observed "
            f"values are needed: pass more rows, or leave this series out"
        )


def _label(panel: Panel, i: int, k: int) -> str:
    n_targets = panel.targets.shape[1]
    return panel.label(i) + (f", target {k + 1} of {n_targets}" if n_targets > 1 else "")


def _report(
    owner: str, panel: Panel, places: list[tuple[int, int]], models: list[LocalModel]
) -> None:
    """One warning for each kind of trouble, naming the first few series."""
    found: dict[str, list[str]] = {}
    for (i, k), model in zip(places, models, strict=True):
        if model.note:
            found.setdefault(model.note, []).append(_label(panel, i, k))
        if not model.converged:
            trouble = (
                "the optimiser did not converge, and the best parameters found are used: "
                "raise maxiter= where there is one, or choose a simpler model"
            )
            found.setdefault(trouble, []).append(_label(panel, i, k))
    for trouble, labels in found.items():
        names = "; ".join(labels[:3]) + (f"; and {len(labels) - 3} more" if len(labels) > 3 else "")
        warnings.warn(f"{owner}: {names}: {trouble}", ConvergenceWarning, stacklevel=4)
