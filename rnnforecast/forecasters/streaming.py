"""Forecasts from a stream: an observation costs one step of the network, not a look-back."""

from __future__ import annotations

import copy
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_choice
from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import gather
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._members import average
from rnnforecast.forecasters._stream_rows import Observations
from rnnforecast.nn import Inputs
from rnnforecast.nn.stream import StreamEncoder, can_stream

__all__ = ["ForecastStream"]

_DTYPES = ("float64", "float32")


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
    forecaster : NeuralForecaster
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
        # a later fit or update is not this stream's; and as in a pickle, the model is on the CPU
        self._forecaster = copy.copy(forecaster)
        model: Any = getattr(self._forecaster, "model_", None)
        self._networks = list(getattr(model, "networks", []))
        if not self._networks or not all(can_stream(network) for network in self._networks):
            raise DataError(
                f"{self._owner} needs a causal encoder that advances step by step: a "
                f"DeepRNNForecaster with bidirectional=False and cell 'rnn', 'lstm', "
                f"'lstm_peephole' or 'gru'. Got "
                f"{_described(forecaster)}: use update() and forecast(), which read the whole "
                f"look-back"
            )
        self._dtype = dtype
        self._model = model
        self._reader = Observations(self._owner, forecaster)
        self._n_updates = 0
        self._ends = _Ends(forecaster.panel_)
        self._open_rings()
        self._encode()

    # -- state -------------------------------------------------------------------------------------

    def _open_rings(self) -> None:
        """The last look-back in series units, with room for as many rows again."""
        panel, units, lookback = self._panel, self._model.units, self._model.lookback
        everyone = np.arange(panel.n_series)
        batch = gather(panel, everyone, panel.lengths, lookback, 0)
        self._loc, self._scale = units.target_loc, units.target_scale
        room = [(0, 0), (0, lookback), (0, 0)]
        parts = (
            (batch.targets - self._loc[:, None]) / self._scale[:, None],
            (batch.past - units.past_loc) / units.past_scale,
            units.known(batch.known),
        )
        self._targets, self._past, self._known = (
            np.pad(part.astype(np.float64, copy=False), room) for part in parts
        )
        self._at = lookback
        self._bind()

    def _bind(self) -> None:
        roles = self._forecaster.roles_
        self._covariates = bool(roles.past or roles.known)
        self._single = self._targets.shape[0] * self._targets.shape[2] == 1
        if self._single:
            self._one_loc, self._one_scale = float(self._loc[0, 0]), float(self._scale[0, 0])

    def _encode(self) -> None:
        inputs = self._window()
        self._encoders = [StreamEncoder(network, inputs, self._dtype) for network in self._networks]

    def _window(self) -> Inputs:
        """The last look-back of every series, in series units."""
        last = slice(self._at - self._model.lookback, self._at)
        targets, past, known = (
            torch.as_tensor(ring[:, last]) for ring in (self._targets, self._past, self._known)
        )
        return Inputs(targets, past, known, known[:, :0], targets[:, 0, :0])

    @property
    def _panel(self) -> Panel:
        """The history that the stream began with."""
        return self._forecaster.panel_

    @property
    def n_updates(self) -> int:
        return self._n_updates

    @property
    def cutoff_(self) -> Any:
        view = self._view()
        return view.cutoff_

    @property
    def hidden_(self) -> np.ndarray:
        states = [encoder.hidden for encoder in self._encoders]
        out = states[0] if len(states) == 1 else np.stack(states)
        out.flags.writeable = False
        return out

    def __repr__(self) -> str:
        kind = f"{self._panel.n_series} series, " if self._panel.is_panel else ""
        return f"ForecastStream({kind}{self._n_updates} updates since {self._owner}())"

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
        if self._single and isinstance(values, (float, int)) and not self._covariates:
            if past is None and known is None and not math.isinf(values):
                self._push((values - self._one_loc) / self._one_scale, None, None)
                return self
        if self._reader.is_frame(values):
            return self._update_frame(values, past, known)
        row = self._reader.row(values, past, known)
        self._take(*row)
        return self

    def _take(self, targets: np.ndarray, past: Any, known: Any) -> None:
        """One row of every series, in the units of the data."""
        units = self._model.units
        self._push(
            (targets - self._loc) / self._scale,
            None if past is None else (past - units.past_loc) / units.past_scale,
            None if known is None else units.known(known),
        )

    def _push(self, targets: Any, past: Any, known: Any) -> None:
        """One row in series units: into the rings, and one step of every encoder."""
        at = self._at
        if at == self._targets.shape[1]:
            at = self._model.lookback
            for ring in (self._targets, self._past, self._known):
                ring[:, :at] = ring[:, -at:]
        self._targets[:, at] = targets
        if past is not None:
            self._past[:, at] = past
        if known is not None:
            self._known[:, at] = known
        self._at = at + 1
        self._n_updates += 1
        for encoder in self._encoders:
            encoder.push(targets, past, known)

    def _update_frame(self, frame: Any, past: Any, known: Any) -> ForecastStream:
        if past is not None or known is not None:
            raise DataError(
                f"{self._owner}: a frame holds its covariates itself. Got past= or known= beside it"
            )
        rows, stamps = self._reader.rows(self._view(), frame)
        for row in rows:
            self._take(*row)
        if stamps is not None:
            self._ends.set(stamps, self._n_updates)
        return self

    def refresh(self) -> ForecastStream:
        """Encode the last look-back anew, as ``forecaster.update(rows).forecast()`` would.

        Returns
        -------
        self
        """
        self._encode()
        return self

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
        return self._view().forecast(X, horizon=horizon, quantiles=quantiles)

    def _view(self) -> Any:
        """The forecaster with its history's end moved to the last observation, and this model."""
        view = copy.copy(self._forecaster)
        view.panel_ = self._ends.panel(self._panel, self._n_updates)
        view.model_ = _StreamModel(self)
        return view


class _StreamModel:
    """A fitted model that forecasts from a stream's states."""

    def __init__(self, stream: ForecastStream):
        self._stream = stream
        self._model = stream._model
        self._members = getattr(self._model, "members", (self._model,))
        self.output, self.units = self._model.output, self._model.units

    def future(self, panel: Any, series: np.ndarray, n_steps: int, known: np.ndarray) -> np.ndarray:
        """As ``NetworkModel.future``, for all series."""
        stream = self._stream
        began, window = stream._panel, stream._window()
        origins = began.lengths + stream.n_updates
        values = [
            member.future_from(window, encoder.encoded, began, n_steps, known, origins)
            for member, encoder in zip(self._members, stream._encoders, strict=True)
        ]
        return average(values, getattr(self._model, "aggregate", ""))


class _End(Panel):
    """A panel that knows where its series end, and no rows before that."""

    def last(self, i: int) -> Any:
        return super().last(i) if self.starts is None else self.starts[i]

    def _check(self, *args: Any) -> None:
        """Earlier rows are no error: covariates of the past are left aside."""


class _Ends:
    """Stamps of the last rows, moved on when they are asked for.

    Parameters
    ----------
    panel : Panel
    """

    def __init__(self, panel: Panel):
        self._at = 0
        self._stamps: pd.Index | None = None
        if panel.calendar is None:
            return
        self._stamps = panel.lasts()

    def set(self, stamps: pd.Index, n_updates: int) -> None:
        """Stamps of the last rows after ``n_updates`` updates, one a series."""
        self._stamps, self._at = stamps, n_updates

    def panel(self, panel: Panel, n_updates: int) -> Panel:
        """A panel whose series end ``n_updates`` rows later."""
        parts = {field.name: getattr(panel, field.name) for field in fields(Panel)}
        every = np.arange(panel.n_series + 1)
        parts["absent"] = None
        if self._stamps is None:
            parts["indptr"] = panel.indptr + n_updates * every
            return _End(**parts)
        if n_updates > self._at:
            self._stamps = _later(panel, self._stamps, n_updates - self._at)
            self._at = n_updates
        parts["indptr"] = every
        parts["starts"] = self._stamps
        parts["stamps"] = None if panel.stamps is None else self._stamps
        return _End(**parts)


def _later(panel: Panel, stamps: pd.Index, n: int) -> pd.Index:
    """The stamps ``n`` steps after each of ``stamps``."""
    assert panel.calendar is not None
    later = panel.calendar.shift(stamps, np.full(len(stamps), n))
    return panel.as_given(later)


def _described(forecaster: Any) -> str:
    parts = [f"{type(forecaster).__name__}"]
    if getattr(forecaster, "bidirectional", False):
        parts.append("bidirectional=True")
    if hasattr(forecaster, "cell"):
        parts.append(f"cell={forecaster.cell!r}")
    return ", ".join(parts)
