"""What users pass to a stream, made uniform: one row of every series at a time, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rnnforecast.data.frames import numeric
from rnnforecast.exceptions import DataError

__all__ = ["Observations", "Row"]


class Row(NamedTuple):
    """One row of every series in the units of the data; NaN where not observed.

    Attributes
    ----------
    targets : (n_series, n_targets)
    past : (n_series, n_past), or None where the forecaster has none
    known : (n_series, n_known), or None likewise
    """

    targets: np.ndarray
    past: np.ndarray | None
    known: np.ndarray | None


class Observations:
    """Reads and checks what ``ForecastStream.update`` is given.

    Parameters
    ----------
    owner : str
        For messages.
    forecaster : NeuralForecaster
        Fitted.
    """

    def __init__(self, owner: str, forecaster: Any):
        self._owner = owner
        panel = forecaster.panel_
        self._ids = panel.ids
        self._is_panel = panel.is_panel
        self._roles = forecaster.roles_
        self._shape = (panel.n_series, panel.targets.shape[1])

    # -- one row -----------------------------------------------------------------------------------

    def row(self, values: Any, past: Any = None, known: Any = None) -> Row:
        """One row from numbers, arrays, or a dict or Series by name.

        Raises
        ------
        DataError
            If there are too few or too many, or a value is infinite or no number.
        """
        if isinstance(values, (dict, pd.Series)):
            record = dict(values)
            if self._is_panel:
                values = self._by_series(record)
            else:
                values, past, known = self._by_column(record, past, known)
        return Row(
            self._targets(values),
            self._covariates("past", past, self._roles.past),
            self._covariates("known", known, self._roles.known),
        )

    def _targets(self, values: Any) -> np.ndarray:
        array = self._numbers("values", values)
        n_series, n_targets = self._shape
        short: list[tuple] = [(n_series,)] if n_targets == 1 else []
        if not self._is_panel:
            short = [(n_targets,), ()] if n_targets == 1 else [(n_targets,)]
        if array.shape != self._shape and array.shape not in short:
            expected = " or ".join(str(shape) for shape in [*short, self._shape])
            raise DataError(
                f"{self._owner}: update takes one observation of {self._what()}: values of shape "
                f"{expected}. Got {array.shape}: pass NaN for what was not observed, one row a call"
            )
        return array.reshape(self._shape)

    def _what(self) -> str:
        targets = f"the targets {self._roles.targets}"
        return f"each of {self._shape[0]} series, {targets}" if self._is_panel else targets

    def _covariates(self, kind: str, values: Any, names: list) -> np.ndarray | None:
        if not names:
            if values is None:
                return None
            raise DataError(
                f"{self._owner}: the forecaster has no {kind} covariates. Got {kind}={values!r}"
            )
        if values is None:
            raise DataError(
                f"{self._owner}: the forecaster has the {kind} covariates {names}: pass {kind}= "
                f"with their values of this row, NaN where not observed. Got None"
            )
        if isinstance(values, (dict, pd.Series)):
            values = self._in_order(kind, dict(values), names)
        array = self._numbers(kind, values)
        n_series, n = self._shape[0], len(names)
        fits = [(n_series, n), (n,)]
        if n == 1:
            fits += [(), (n_series,)]
        if array.shape not in fits:
            raise DataError(
                f"{self._owner}: {kind} must hold {names}: shape {(n_series, n)}, or {(n,)} for "
                f"all series. Got {array.shape}"
            )
        if array.size == n_series * n:  # those of each series, or of the one there is
            return array.reshape(n_series, n)
        return np.ascontiguousarray(np.broadcast_to(array, (n_series, n)))

    def _numbers(self, what: str, values: Any) -> np.ndarray:
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"{self._owner}: {what} must be numbers. Got {values!r}") from None
        if np.isinf(array).any():
            raise DataError(
                f"{self._owner}: {what} holds an infinite value: pass NaN (not observed) or a "
                f"number. Got {values!r}"
            )
        return array

    # -- by name -----------------------------------------------------------------------------------

    def _by_series(self, record: dict) -> np.ndarray:
        """Values by series; those left out are not observed."""
        array = np.full(self._shape, np.nan)
        found = self._ids.get_indexer(list(record))
        if (found < 0).any():
            stranger = list(record)[int(np.argmax(found < 0))]
            raise DataError(
                f"{self._owner}: series {stranger!r} was not in the data passed to fit: leave it "
                f"out, or fit on it first"
            )
        for place, (name, value) in zip(found, record.items(), strict=True):
            one = self._numbers(f"the value of series {name!r}", value)
            if one.shape != (self._shape[1],) and (one.shape != () or self._shape[1] != 1):
                raise DataError(
                    f"{self._owner}: series {name!r} must have {self._shape[1]} value(s), one a "
                    f"target. Got shape {one.shape}"
                )
            array[place] = one
        return array

    def _by_column(self, record: dict, past: Any, known: Any) -> tuple[Any, Any, Any]:
        """One series: values by column, covariates among them; targets left out are not
        observed.
        """
        roles = self._roles
        strange = [k for k in record if k not in (*roles.targets, *roles.past, *roles.known)]
        if strange:
            raise DataError(
                f"{self._owner}: column {strange[0]!r} is none of "
                f"{[*roles.targets, *roles.past, *roles.known]}"
            )

        def chosen(given: Any, names: list) -> Any:
            inside = {name: record[name] for name in names if name in record}
            return inside if given is None and inside else given

        targets = [record.get(name, np.nan) for name in roles.targets]
        return targets, chosen(past, roles.past), chosen(known, roles.known)

    def _in_order(self, kind: str, record: dict, names: list) -> list:
        missing = [name for name in names if name not in record]
        strange = [name for name in record if name not in names]
        if missing or strange:
            wrong = f"lacks {missing[0]!r}" if missing else f"has {strange[0]!r} besides"
            raise DataError(f"{self._owner}: {kind} must hold {names}, but {wrong}")
        return [record[name] for name in names]

    # -- frames ------------------------------------------------------------------------------------

    def is_frame(self, values: Any) -> bool:
        """Whether values are rows with time stamps, not one row of numbers."""
        if isinstance(values, (np.ndarray, list, tuple, dict, float, int)):
            return False
        if isinstance(values, pd.Series):
            kinds = (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex)
            return isinstance(values.index, kinds) and not values.index.equals(self._ids)
        return isinstance(values, pd.DataFrame) or hasattr(values, "__dataframe__")

    def rows(self, view: Any, frame: Any) -> tuple[list[Row], pd.Index | None]:
        """The rows of a frame, step by step.

        Parameters
        ----------
        view : NeuralForecaster
            Its history ends where the stream is.
        frame : DataFrame or Series

        Returns
        -------
        rows : list of Row
        stamps : Index or None
            Stamps of the last row where the calendar is the rows' own.
        """
        if self._roles.separate_y:
            raise DataError(
                f"{self._owner}: fit was given y apart from X: pass the targets of one row as "
                f"numbers and the columns of X as known="
            )
        table, panel = view._read_rows(frame, history=True), view.panel_
        series, steps = panel.locate(self._owner, table.keys)
        if (steps <= 0).any():
            row = int(np.argmax(steps <= 0))
            raise DataError(
                f"{self._owner}: row {table.keys.stamps(np.array([row]))[0]} is not after the last "
                f"observation, {panel.last(int(series[row]))}: pass new rows only"
            )
        last = None
        if panel.calendar is not None and panel.calendar.own_grid and table.keys.has_time:
            codes, unique = pd.factorize(table.keys.stamps(slice(None)), sort=True)
            steps, last = codes + 1, unique[[-1] * panel.n_series]
        self._check_steps(panel, series, steps)
        n = int(steps.max())
        arrays = []
        for names in (self._roles.targets, self._roles.past, self._roles.known):
            array = np.full((n, panel.n_series, len(names)), np.nan)
            array[steps - 1, series] = numeric(self._owner, table.frame, list(names))
            arrays.append(array)
        targets, past, known = arrays
        return [
            Row(
                targets[step],
                past[step] if past.shape[2] else None,
                known[step] if known.shape[2] else None,
            )
            for step in range(n)
        ], last

    def _check_steps(self, panel: Any, series: np.ndarray, steps: np.ndarray) -> None:
        n = int(steps.max())
        if len(np.unique(series * n + steps)) < len(steps):
            raise DataError(
                f"{self._owner}: a time stamp of a series appears more than once: drop the "
                f"repeated rows"
            )
        if n > 1000 + 100 * len(steps):
            raise DataError(
                f"{self._owner}: the rows reach {n} steps beyond the last observation of "
                f"{panel.label(int(series[np.argmax(steps)]))}: check their time stamps, or use "
                f"update() and stream() of the forecaster"
            )
        together = panel.starts is None or len(panel.starts.unique()) == 1
        if not together:
            furthest = np.zeros(panel.n_series, dtype=np.int64)
            np.maximum.at(furthest, series, steps)
            if (furthest != n).any():
                i = int(np.argmax(furthest != n))
                raise DataError(
                    f"{self._owner}: the series end at different times, and an update moves all "
                    f"by the same number of steps: {panel.label(i)} has rows for {furthest[i]} "
                    f"steps, another for {n}: pass as many new rows of each"
                )
