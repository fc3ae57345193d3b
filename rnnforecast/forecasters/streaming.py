"""Forecasts from a stream: an observation costs one step of the network, not a look-back."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_choice
from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import gather
from rnnforecast.exceptions import DataError
from rnnforecast.nn.stream import StreamEncoder, can_stream

__all__ = ["ForecastStream"]

_DTYPES = ("float64", "float32")
_MOST_PENDING = 4096  # rows kept beside the history before they become part of it


class ForecastStream:
    """Forecasts of a fitted forecaster that move on with every observation, at constant cost.

    Made by ``forecaster.stream()``, which starts it at the end of the history: the last look-back
    of every series is encoded as ``forecast`` does it, and from there each observation advances the
    hidden states by one step. The forecaster itself is never changed.

    The states equal those of encoding all rows since the start of that look-back at once. Where
    ``scaler="window"``, its mean and scale are those of that look-back too, and stay until
    :meth:`refresh` encodes the last look-back anew: do so where the level wanders far. The anchors
    of a forecast (last value, mean, last season) always come from the last look-back.

    Parameters
    ----------
    forecaster : DeepRNNForecaster
        Fitted, with a causal recurrent encoder.
    dtype : {"float64", "float32"}, default "float64"
        Of the states; "float32" halves the cost for many series.

    Attributes
    ----------
    n_updates : int
        Rows observed since the stream was opened.
    hidden_ : ndarray, shape (n_layers, n_series, hidden_size)
        Hidden states, a read-only view; with several members, (n_members, ...). A network that
        reads its targets independently has a row for each target of each series.
    cutoff_ : stamp, or Series of stamps by series where they differ
        Stamp of the last row.

    Raises
    ------
    DataError
        If the encoder is not causal (bidirectional, for example).

    Notes
    -----
    With ``segment=S`` there are S sets of states, one for each place of a row in its segment: an
    update stays one step, and memory grows with S. A stream is not safe for use by several threads
    at once.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> index = pd.date_range("2024-01-01", periods=90, freq="h")
    >>> df = pd.DataFrame({"y": np.sin(np.arange(90.0))}, index=index)
    >>> fc = DeepGRUForecaster(horizon=2, lookback=6, max_epochs=1).fit(df)
    >>> stream = fc.stream()
    >>> bool(np.allclose(stream.forecast(), fc.forecast()))
    True
    >>> stream.update(0.9).update(float("nan")).forecast().index[0]  # NaN: not observed
    Timestamp('2024-01-04 20:00:00')
    """

    def __init__(self, forecaster: Any, dtype: str = "float64"):
        self._owner = f"{type(forecaster).__name__}.stream"
        check_is_fitted(forecaster, "panel_")
        check_choice(self._owner, "dtype", dtype, _DTYPES)
        # a later fit or update is not this stream's
        self._forecaster = copy.copy(forecaster)
        networks = getattr(self._forecaster, "networks_", [])
        if not networks or not all(can_stream(network) for network in networks):
            raise DataError(
                f"{self._owner} needs a causal encoder that advances step by step: a "
                f"DeepRNNForecaster with bidirectional=False. Got "
                f"{type(forecaster).__name__}, bidirectional="
                f"{getattr(forecaster, 'bidirectional', False)}, cell={forecaster.cell!r}: use "
                f"update() and forecast(), which read the whole look-back"
            )
        self._dtype = dtype
        self.n_updates = 0
        self._pending: list[tuple] = []
        roles, scale = self._forecaster.roles_, self._forecaster.scale_
        self._loc, self._scale = scale.target_loc, scale.target_scale
        self._names = {"values": roles.targets, "past": roles.past, "known": roles.known}
        self._plain = self._loc.size == 1 and not (roles.past or roles.known)  # rows are one number
        self._one = (float(self._loc[0, 0]), float(self._scale[0, 0]))
        self.refresh()

    # -- state -------------------------------------------------------------------------------------

    def refresh(self) -> ForecastStream:
        """Encode the last look-back anew, as ``forecaster.update(rows).forecast()`` would.

        Returns
        -------
        self
        """
        fc, panel = self._forecaster, self._history()
        everyone = np.arange(panel.n_series)
        inputs = fc._inputs(fc.network_, panel, everyone, panel.lengths)
        self._encoders = [StreamEncoder(each, inputs, self._dtype) for each in fc.networks_]
        return self

    def _history(self) -> Panel:
        """All rows, those observed since the stream was opened too."""
        fc = self._forecaster
        if self._pending:
            panel, parts = fc.panel_, []
            for k, like in enumerate((panel.targets, panel.past, panel.known)):
                shape = (panel.n_series, like.shape[1])
                rows = [np.reshape(row[k], shape) if shape[1] else () for row in self._pending]
                parts.append(np.array(rows, dtype=np.float64).reshape(len(rows), *shape))
            fc.panel_ = panel.grown(*parts)
            self._pending.clear()
        return fc.panel_

    @property
    def cutoff_(self) -> Any:
        self._history()
        return self._forecaster.cutoff_

    @property
    def hidden_(self) -> np.ndarray:
        states = [encoder.hidden for encoder in self._encoders]
        out = states[0] if len(states) == 1 else np.stack(states)
        out.flags.writeable = False
        return out

    def __repr__(self) -> str:
        panel = self._forecaster.panel_
        kind = f"{panel.n_series} series, " if panel.is_panel else ""
        return f"ForecastStream({kind}{self.n_updates} updates since {self._owner}())"

    # -- updates -----------------------------------------------------------------------------------

    def update(self, values: Any, *, past: Any = None, known: Any = None) -> ForecastStream:
        """Take one observation of every series, or the rows of a frame.

        Parameters
        ----------
        values : float or array-like
            One series: a number, or ``(n_targets,)``. A panel: ``(n_series,)`` or ``(n_series,
            n_targets)``, in the order of ``forecaster.panel_.ids``. NaN stands for what was not
            observed. Slower, by name: a dict or Series of values by series (by column, for one
            series), where what is left out is not observed; or a DataFrame of the next rows as for
            ``forecaster.update``, one step for each time stamp, gaps being not observed.
        past, known : array-like or dict by column, optional
            The same row of the past and known covariates, needed where the forecaster has them:
            ``(n_past,)``, for a panel ``(n_series, n_past)`` or one row that all series share.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If values are too few, too many or infinite, or covariates are missing; the stream is
            then as it was before.
        """
        if self._plain and isinstance(values, (float, int)):
            if past is None and known is None and not math.isinf(values):
                location, scale = self._one
                self._push((values - location) / scale, None, None)
                self._remember((values, None, None))
                return self
        if self._is_frame(values):
            return self._update_frame(values, past, known)
        row = self._read(values, past, known)
        self._take(*row)
        self._remember(row)
        return self

    def _remember(self, row: tuple) -> None:
        self._pending.append(row)
        if len(self._pending) >= _MOST_PENDING:
            self._history()

    def _take(self, targets: Any, past: Any, known: Any) -> None:
        """One row of every series, in the unit of the data."""
        scale = self._forecaster.scale_
        self._push(
            (targets - self._loc) / self._scale,
            None if past is None else scale.past(past),
            None if known is None else scale.known(known),
        )

    def _push(self, targets: Any, past: Any, known: Any) -> None:
        """One scaled row: one step of every encoder."""
        self.n_updates += 1
        for encoder in self._encoders:
            encoder.push(targets, past, known)

    def _is_frame(self, values: Any) -> bool:
        """Whether values are rows with time stamps, not one row of numbers."""
        if isinstance(values, (np.ndarray, list, tuple, dict, float, int)):
            return False
        if isinstance(values, pd.Series):
            kinds = (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex)
            known = values.index.equals(self._forecaster.panel_.ids)
            return isinstance(values.index, kinds) and not known
        return isinstance(values, pd.DataFrame) or hasattr(values, "__dataframe__")

    def _update_frame(self, frame: Any, past: Any, known: Any) -> ForecastStream:
        fc, owner = self._forecaster, self._owner
        if past is not None or known is not None:
            raise DataError(
                f"{owner}: a frame holds its covariates itself. Got past= or known= beside it"
            )
        if fc.roles_.separate_y:
            raise DataError(
                f"{owner}: fit was given y apart from X: pass the targets of one row as numbers "
                f"and the columns of X as known="
            )
        old = self._history()
        new = fc._extended(frame, None)
        if new.n_series > old.n_series:
            raise DataError(
                f"{owner}: {new.label(old.n_series)} is new: a stream goes on with the series it "
                f"was opened with; use update() and stream() of the forecaster"
            )
        steps = new.lengths - old.lengths
        n, ends = int(steps.max()), old.lasts()
        if (steps != n).any() and len(ends.unique()) > 1:
            i = int(np.argmax(steps != n))
            raise DataError(
                f"{owner}: the series end at different times, and an update moves all by the same "
                f"number of steps: {old.label(i)} has rows for {steps[i]} steps, another for {n}: "
                f"pass as many new rows of each"
            )
        if n > 1000 + 100 * len(frame):
            raise DataError(
                f"{owner}: the rows reach {n} steps beyond the last observation: check their time "
                f"stamps, or use update() and stream() of the forecaster"
            )
        rows = gather(new, np.arange(new.n_series), old.lengths + n, n, 0)
        parts = (rows.targets, rows.past, rows.known)
        for k in range(n):
            targets, past, known = (part[:, k] if part.shape[2] else None for part in parts)
            self._take(targets, past, known)
        # where some series have no row for a step, it was not observed
        same = bool((steps == n).all())
        fc.panel_ = new if same else old.grown(*(part.transpose(1, 0, 2) for part in parts))
        return self

    # -- rows of numbers ---------------------------------------------------------------------------

    def _read(self, values: Any, past: Any, known: Any) -> tuple:
        """Targets, past and known covariates of one row of every series, (n_series, ...) each; None
        where there are none.
        """
        given = {"values": values, "past": past, "known": known}
        if isinstance(values, (dict, pd.Series)):
            by_name = self._by_series if self._forecaster.panel_.is_panel else self._by_column
            given = by_name(dict(values), given)
        return tuple(self._columns(kind, value) for kind, value in given.items())

    def _by_series(self, record: dict, given: dict) -> dict[str, Any]:
        """Values by series; those left out are not observed."""
        names = self._names["values"]
        rows = dict.fromkeys(self._forecaster.panel_.ids, np.full(len(names), np.nan))
        for name, value in record.items():
            if name not in rows:
                raise DataError(
                    f"{self._owner}: series {name!r} was not in the data passed to fit: leave it "
                    f"out, or fit on it first"
                )
            rows[name] = self._numbers(f"the row of series {name!r}", value, names, 1)[0]
        return {**given, "values": list(rows.values())}

    def _by_column(self, record: dict, given: dict) -> dict[str, Any]:
        """Values of one series by column, covariates among them; targets may be left out."""
        every = [name for names in self._names.values() for name in names]
        strange = [name for name in record if name not in every]
        if strange:
            raise DataError(f"{self._owner}: column {strange[0]!r} is none of {every}")
        for kind in ("past", "known"):
            inside = {name: record[name] for name in self._names[kind] if name in record}
            if given[kind] is None and inside:
                given[kind] = inside
        return {**given, "values": [record.get(name, np.nan) for name in self._names["values"]]}

    def _columns(self, kind: str, values: Any) -> np.ndarray | None:
        names = self._names[kind]
        if not names and values is None:
            return None
        if not names or values is None:
            has = f"the {kind} covariates {names}" if names else f"no {kind} covariates"
            raise DataError(
                f"{self._owner}: the forecaster has {has}: pass {kind}= with their values of this "
                f"row, NaN where not observed. Got {kind}={values!r}"
            )
        if isinstance(values, (dict, pd.Series)):
            record = dict(values)
            if set(record) != set(names):
                raise DataError(f"{self._owner}: {kind} must hold {names}. Got {list(record)}")
            values = [record[name] for name in names]
        n_series = self._forecaster.panel_.n_series
        return self._numbers(kind, values, names, n_series, shared=kind != "values")

    def _numbers(
        self, what: str, values: Any, names: list, n_series: int, shared: bool = False
    ) -> np.ndarray:
        """Numbers ``(n_series, n_names)``, or one row that is ``shared`` by all series."""
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"{self._owner}: {what} must be numbers. Got {values!r}") from None
        if np.isinf(array).any():
            raise DataError(
                f"{self._owner}: {what} holds an infinite value: pass NaN (not observed) or a "
                f"number. Got {values!r}"
            )
        shape = (n_series, len(names))
        each = [shape[:1]] if shape[1] == 1 else []
        one = [shape[1:], *([()] if each else [])] if shared or n_series == 1 else []
        if array.shape not in (fits := [*one, *each, shape]):
            expected = " or ".join(map(str, dict.fromkeys(fits)))
            raise DataError(
                f"{self._owner}: {what} must hold {names} of {n_series} series, one row of shape "
                f"{expected}. Got {array.shape}: pass NaN for what was not observed, one row a call"
            )
        # a copy: it is kept
        return np.array(np.broadcast_to(array.reshape(-1, shape[1]), shape), order="C")

    # -- forecasts ---------------------------------------------------------------------------------

    def forecast(
        self, X: Any = None, *, horizon: int | None = None, quantiles: Any = None
    ) -> pd.DataFrame:
        """Forecast the steps after the last observation, as the forecaster's ``forecast``.

        Parameters
        ----------
        X : DataFrame or array, optional
            Future rows of the known covariates; needed if there are any.
        horizon : int, optional
            Number of steps; the forecaster's ``horizon`` if None. Beyond that it rolls on.
        quantiles : sequence of float, optional
            Levels in (0, 1). If given, the columns are (target, quantile).

        Returns
        -------
        DataFrame
            Indexed by time, or by (series, time) for a panel.
        """
        self._history()
        view = copy.copy(self._forecaster)
        view._encodings = [encoder.encoded for encoder in self._encoders]
        return view.forecast(X, horizon=horizon, quantiles=quantiles)
