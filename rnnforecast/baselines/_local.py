"""Models that are fitted to each series and each target alone.

A family is one ``LocalModel`` (what was learnt of one series, small and picklable, its filter
standing at the end of the history) and one ``LocalForecaster`` that says how to fit it. The walk
over series and targets, joblib, covariates, warnings and the hooks of ``BaseForecaster`` are here.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.special import ndtri
from sklearn.exceptions import ConvergenceWarning

from rnnforecast._validation import check_int
from rnnforecast.data.calendar import default_seasonality
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.base import BaseForecaster

__all__ = ["LocalForecaster", "LocalModel", "leading_missing"]


@dataclass(frozen=True)
class LocalModel(ABC):
    """What was learnt of one target of one series, and where its history ends.

    Attributes
    ----------
    converged : bool
        False if the optimiser stopped before its own criterion was met.
    note : str
        What the user should know about this fit; empty if nothing.
    """

    converged: bool
    note: str

    @abstractmethod
    def future(self, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the next steps without covariates, each (n_steps,)."""

    @abstractmethod
    def in_sample(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One-step mean without the row's own covariates, and standard deviation, each (n_rows,).

        ``y``, shape (n_rows,), and ``x``, shape (n_rows, n_known), are the whole history.
        """

    @abstractmethod
    def extended(self, y: np.ndarray, x: np.ndarray) -> LocalModel:
        """The same parameters with the rows ``y``, ``x`` appended to the history."""

    @abstractmethod
    def describe(self) -> str:
        """Form of the model for ``repr``, e.g. ``ETS(A,N,A)[12]``."""

    def effect(self, x: np.ndarray) -> np.ndarray | float:
        """What covariates ``x``, shape (..., n_known), add to the mean, shape (...)."""
        return 0.0

    def quantiles(self, n_steps: int, levels: tuple[float, ...]) -> np.ndarray:
        """Quantiles of the next steps without covariates, (n_steps, n_levels); normal here."""
        return _normal(*self.future(n_steps), levels)


def _normal(mean: np.ndarray, sd: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    return mean[:, None] + sd[:, None] * ndtri(np.asarray(levels))


def leading_missing(y: np.ndarray) -> int:
    """Number of missing values before the first observed one."""
    return int(np.argmax(~np.isnan(y)))


def _fit_one(fit: Callable, label: str, y: np.ndarray, x: np.ndarray, options: dict) -> LocalModel:
    """Fit one model; warnings that the user cannot act on stay inside."""
    try:
        # recorded, and so not shown, as statsmodels puts a filter of its own first when imported
        with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return fit(y, x, **options)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{label}: the model could not be fitted ({error}): use a simpler one, or leave this "
            f"series out"
        ) from error


class LocalForecaster(BaseForecaster):
    """Base of the baselines: one ``LocalModel`` for each series and target.

    Subclasses implement ``_local_fit`` and say with ``_uses_known`` whether covariates take part.
    """

    n_jobs: int | None
    models_: list[list[LocalModel]]
    seasonality_: int

    _uses_known = False

    # -- what a family gives ----------------------------------------------------------------------

    @abstractmethod
    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        """A module-level function ``fit(y, x, **options) -> LocalModel`` and its options."""

    def _season(self, panel: Panel) -> int:
        """Seasonal period: the parameter, or the usual one of the calendar (1 without one)."""
        given = getattr(self, "seasonality", None)
        if given is not None:
            return int(given)
        return 1 if panel.calendar is None else default_seasonality(panel.calendar)

    # -- hooks of BaseForecaster ------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        if "seasonality" in self.get_params(deep=False):
            check_int(owner, "seasonality", self.get_params(deep=False)["seasonality"], none=True)
        whole = isinstance(self.n_jobs, (int, np.integer)) and not isinstance(self.n_jobs, bool)
        if self.n_jobs is not None and (not whole or self.n_jobs == 0):
            raise DataError(
                f"{owner}: n_jobs must be None or an integer other than 0 (-1 for all cores). "
                f"Got {self.n_jobs!r}"
            )

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        owner = type(self).__name__
        self._check_rows(panel)
        seasonality = self._season(panel)
        fit, options = self._local_fit(panel, seasonality)
        n_targets = panel.targets.shape[1]
        places = [(i, k) for i in range(panel.n_series) for k in range(n_targets)]
        jobs = (
            delayed(_fit_one)(
                fit, f"{owner}: {_label(panel, i, k)}", *self._rows(panel, i, k), options
            )
            for i, k in places
        )
        models = list(Parallel(n_jobs=self.n_jobs)(jobs))
        _report(owner, panel, places, models)
        return {
            "models_": [models[i * n_targets : (i + 1) * n_targets] for i in range(panel.n_series)],
            "seasonality_": seasonality,
        }

    def _update_panel(self, panel: Panel) -> dict[str, Any]:
        self._check_covariates(panel, self.panel_.lengths)
        models = []
        for i, old in enumerate(self.models_):
            n = int(self.panel_.lengths[i])
            if panel.lengths[i] == n:
                models.append(old)
                continue
            rows = [self._rows(panel, i, k) for k in range(len(old))]
            with np.errstate(all="ignore"):
                models.append(
                    [m.extended(y[n:], x[n:]) for m, (y, x) in zip(old, rows, strict=True)]
                )
        return {"models_": models}

    def _predict_future(self, series: np.ndarray, n_steps: int, known: np.ndarray) -> np.ndarray:
        out = np.empty((len(series), n_steps, len(self.models_[0])))
        for s, i in enumerate(series):
            for k, model in enumerate(self.models_[i]):
                out[s, :, k] = model.future(n_steps)[0] + model.effect(known[s])
        return out

    def _quantiles_future(
        self, series: np.ndarray, n_steps: int, known: np.ndarray, levels: tuple[float, ...]
    ) -> np.ndarray:
        out = np.empty((len(series), n_steps, len(self.models_[0]), len(levels)))
        for s, i in enumerate(series):
            for k, model in enumerate(self.models_[i]):
                effect = np.broadcast_to(model.effect(known[s]), n_steps)
                out[s, :, k] = model.quantiles(n_steps, levels) + effect[:, None]
        return out

    def _predict_in_sample(
        self, series: np.ndarray, positions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        return self._in_sample(series, positions, known, None)[..., 0]

    def _quantiles_in_sample(
        self,
        series: np.ndarray,
        positions: np.ndarray,
        known: np.ndarray,
        levels: tuple[float, ...],
    ) -> np.ndarray:
        return self._in_sample(series, positions, known, levels)

    def _in_sample(
        self,
        series: np.ndarray,
        positions: np.ndarray,
        known: np.ndarray,
        levels: tuple[float, ...] | None,
    ) -> np.ndarray:
        n_values = 1 if levels is None else len(levels)
        out = np.empty((len(series), len(self.models_[0]), n_values))
        for i, rows in group_rows(series):
            at = positions[rows]
            for k, model in enumerate(self.models_[i]):
                with np.errstate(all="ignore"):
                    mean, sd = model.in_sample(*self._rows(self.panel_, i, k))
                mean = mean[at] + model.effect(known[rows])
                values = mean[:, None] if levels is None else _normal(mean, sd[at], levels)
                out[rows, k] = values
        return out

    # -- rows -------------------------------------------------------------------------------------

    def _rows(self, panel: Panel, i: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Target k, shape (n_rows,), and the covariates in use, (n_rows, n_known), of series i."""
        rows = panel.series(i)
        known = panel.known[rows] if self._uses_known else np.empty((int(panel.lengths[i]), 0))
        return panel.targets[rows, k].astype(np.float64), known.astype(np.float64)

    def _check_rows(self, panel: Panel) -> None:
        """Every target of every series needs two observed values, and covariates where observed."""
        owner = type(self).__name__
        observed = panel.mask
        for i in range(panel.n_series):
            seen = observed[panel.series(i)].sum(axis=0)
            if (seen < 2).any():
                k = int(np.argmax(seen < 2))
                count = "no observed value" if seen[k] == 0 else "1 sample (n_samples=1)"
                raise DataError(
                    f"{owner}: {_label(panel, i, k)} has {count}; at least 2 observed "
                    f"values are needed: pass more rows, or leave this series out"
                )
        self._check_covariates(panel, np.zeros(panel.n_series, dtype=np.int64))

    def _check_covariates(self, panel: Panel, start: np.ndarray) -> None:
        """Raise where a target is observed and a covariate is not, from row start[i] on."""
        if not self._uses_known or not panel.known.shape[1]:
            return
        observed = np.asarray(panel.mask.any(axis=1))
        bad = np.isnan(panel.known) & observed[:, None]
        if not bad.any():
            return
        for i in range(panel.n_series):
            rows = bad[panel.series(i)][int(start[i]) :]
            if rows.any():
                row, column = np.argwhere(rows)[0]
                row += int(start[i])
                raise DataError(
                    f"{type(self).__name__}: {panel.label(i)}: known covariate number "
                    f"{column + 1} is missing (NaN) at row {panel.time_index(i)[int(row)]}: fill "
                    f"it or drop the row first, as a regression cannot use it"
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
        frame = pd.DataFrame(index=self.panel_.ids)
        for k, target in enumerate(self.target_names_):
            column = pd.Series([row[k] for row in values], index=self.panel_.ids)
            frame[target] = column
        return frame

    @property
    def converged_(self) -> Any:
        """Whether the optimiser met its criterion: a bool, or a frame (series × target)."""
        return self._per_series(lambda model: model.converged, "converged_")


def _label(panel: Panel, i: int, k: int) -> str:
    label = panel.label(i)
    n_targets = panel.targets.shape[1]
    return label if n_targets == 1 else f"{label}, target {k + 1} of {n_targets}"


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
