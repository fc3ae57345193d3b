"""What is fitted to a history of series: frames are read into a panel, kept and extended."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_int
from rnnforecast.data import reading
from rnnforecast.data.frames import read_table
from rnnforecast.data.panel import Panel
from rnnforecast.data.roles import Roles
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.sharing import of_rows
from rnnforecast.parameters import checked, estimator, refitted

__all__ = ["HistoryEstimator"]

_READING = ("target", "known", "static", "series_id", "time", "freq")  # parameters of the columns


@estimator
class HistoryEstimator(RegressorMixin, BaseEstimator, ABC):
    """Base of what is fitted to a history of series: reads it, keeps it and lets it grow.

    Fitted attributes are returned by hooks as a dict, and set all at once, so that an error never
    leaves a half-fitted estimator.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
    target : str or list of str, optional
        Columns of X that are forecast. None: y, or without y every column of numbers that has no
        other role.
    known : str or list of str, optional
        Columns of X that are known in the future too (calendar, prices, plans). With y apart from X
        all columns are.
    static : str or list of str, optional
        Columns of X that are constant within each series.
    series_id : str, optional
        Column that names the series, instead of an index.
    time : str, optional
        Column of time stamps, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.

    Attributes
    ----------
    panel_ : Panel
        The history: the rows of ``fit`` and ``update``.
    roles_ : Roles
        Columns of X by role.
    target_names_ : list
    cutoff_ : stamp, or Series of stamps by series where they differ
        Of the last row of the history.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str
        Their names, if all are strings.
    """

    horizon: int = checked(1, check_int)
    target: Any = None
    known: Any = None
    static: Any = None
    series_id: Any = None
    time: Any = None
    freq: Any = None

    _checks: ClassVar[dict[str, Any]]  # of values of parameters, as they were declared

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        """Train on ``panel``; return the fitted attributes (names ending in ``_``). Self is a copy
        that already has those of the columns, and may be changed.
        """

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        """Fitted attributes that depend on the rows of the history; weights stay.

        ``fresh``: another panel, measured by itself; else ``panel_`` with more rows, and perhaps
        more series at its end, where what is known of the old ones stays.
        """
        return {}

    def _admit(self, history: Panel) -> None:
        """Raise DataError for a history that cannot be forecast: with series that are new, say."""

    def _check_params(self) -> None:
        """Raise DataError for unusable parameters; extended by subclasses."""
        for name, check in self._checks.items():
            check(type(self).__name__, name, getattr(self, name))

    # -- fit ---------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> HistoryEstimator:
        """Fit to the rows of ``X``.

        Parameters
        ----------
        X : DataFrame, Series, 2-D array, or a frame that narwhals reads
            One row per time step. A panel has a MultiIndex (series, time) or the columns named by
            ``series_id`` and ``time``.
        y : array-like, shape (n_rows,) or (n_rows, n_targets), optional
            Targets. If given, every column of X is a covariate known in the future; if not,
            ``target`` names the targets in X.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If the data cannot be used; the estimator is then as it was before.
        """
        self._check_params()
        owner = type(self).__name__
        options = {name: getattr(self, name) for name in _READING}
        panel, roles, columns, is_array = of_rows(
            (owner, X, y, *options.values()), lambda: reading.read_fit(owner, X, y, **options)
        )
        named = not is_array and all(isinstance(name, str) for name in columns)
        self._adopt(panel, roles, len(columns), columns if named else None)
        if vars(self)["panel_"] is panel:  # the rows must be safe from the caller's later writes
            self.panel_ = panel.owned(X)
        return self

    def update(self, X: Any, y: Any = None) -> HistoryEstimator:
        """Append observed rows to the history; weights and parameters stay as fitted.

        Parameters
        ----------
        X, y
            As in ``fit``, rows after the cutoff of their series; a gap before them is masked. Rows
            of a series that is new are its whole history.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If a row is not after the cutoff, or columns are missing; the estimator is then as it
            was.
        """
        panel = self._extended(X, y)
        self.__dict__.update({"panel_": panel}, **self._follow(panel, fresh=False))
        return self

    def _extended(self, X: Any, y: Any) -> Panel:
        """The history with the rows of X (and y) appended."""
        check_is_fitted(self, "panel_")
        owner, table = type(self).__name__, reading.read_rows(self, X, ("known", "targets", "past"))
        table, targets = reading.with_targets(owner, table, y, self.roles_)
        panel = self.panel_.append(owner, table, targets)
        self._admit(panel)
        return panel

    @property
    def cutoff_(self) -> Any:
        """Stamp of the last row of the history; a Series by series where their ends differ."""
        if "panel_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no cutoff_ before fit")
        lasts = self.panel_.lasts()
        if (lasts == lasts[0]).all():
            return lasts[0]
        return pd.Series(lasts, index=self.panel_.ids, name="cutoff")

    def history(self) -> pd.DataFrame:
        """The target columns observed so far.

        Returns
        -------
        DataFrame, shape (n_rows, n_targets)
            Indexed by time, or by (series, time) for a panel.
        """
        check_is_fitted(self, "panel_")
        return self.panel_.history(self.target_names_)

    def future_index(self, horizon: int | None = None) -> pd.Index:
        """Stamps of the next steps, as ``forecast`` gives them: to make future covariates for.

        Parameters
        ----------
        horizon : int, optional
            Number of steps; the estimator's ``horizon`` if None.

        Returns
        -------
        Index
            Time stamps, or (series, time) for a panel.
        """
        check_is_fitted(self, "panel_")
        n_steps = self.horizon if horizon is None else horizon
        check_int(type(self).__name__, "horizon", n_steps)
        return self.panel_.future_frame_index(n_steps)

    # -- reading X after fit -----------------------------------------------------------------------

    def _on(self, rows: Any) -> Any:
        """The same estimator with other rows as its history; all else is shared."""
        owner, roles, y = type(self).__name__, self.roles_, None
        if roles.separate_y:
            table = read_table(owner, rows, self.series_id, self.time)
            missing = [name for name in roles.targets if name not in table.frame.columns]
            if missing:
                raise DataError(
                    f"{owner}: history must hold the target {missing[0]!r} beside the columns of "
                    f"X; the columns are {table.columns}"
                )
            y = table.frame[roles.targets]
        else:
            table = reading.read_rows(self, rows, ("targets", "past", "known", "static"))
        panel = reading.read_history(owner, table, y, roles, self.panel_, self.freq)
        self._admit(panel)
        return self._at(panel, fresh=True)

    def __copy__(self) -> Any:
        """Everything shared, networks on their device too, which a pickle takes to the CPU."""
        new = object.__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def _adopt(self, panel: Panel, roles: Roles, n_features: int, feature_names: Any) -> None:
        """Fit to rows that were read already, of an X with so many columns (of names, if any)."""
        names = {"target_names_": list(roles.targets), "n_features_in_": n_features}
        common: dict[str, Any] = {"panel_": panel, "roles_": roles, **names}
        if feature_names is not None:
            common["feature_names_in_"] = np.asarray(feature_names, dtype=object)
        view = copy.copy(self)  # on which a hook finds the columns; self is not touched yet
        view.__dict__.pop("feature_names_in_", None)
        view.__dict__.update(common)
        fitted = view._fit_panel(panel)
        refitted(self, {**common, **fitted})

    def _at(self, history: Panel, fresh: bool = False) -> Any:
        """The same estimator with another history, see ``_follow``; all else is shared."""
        view = copy.copy(self)
        view.__dict__.update({"panel_": history}, **view._follow(history, fresh))
        return view

    # -- scikit-learn ------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return "panel_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = False
        tags.target_tags.multi_output = tags.target_tags.single_output = True
        return tags

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text = super().__repr__(N_CHAR_MAX)
        if "panel_" not in vars(self):
            return text
        return f"{text}\n  fitted: {'; '.join(self._describe())}"

    def _describe(self) -> list[str]:
        """What the fitted repr tells; extended by subclasses."""
        panel = self.panel_
        size = f"{panel.n_series} series" if panel.is_panel else f"{len(panel.targets)} rows"
        if panel.calendar is not None:
            size += f", {panel.calendar!r}"
        return [str(self.roles_), size]
