"""What forecasters with a windowed network share: training, forecasting, intervals, pickling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from rnnforecast._validation import (
    check_bool,
    check_choice,
    check_int,
    check_quantiles,
    check_real,
)
from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import _members, _training
from rnnforecast.forecasters._plan import Plan, make_plan
from rnnforecast.forecasters._shared import derived
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.conformal import ConformalErrors
from rnnforecast.nn import WindowNetwork
from rnnforecast.outputs import LOSSES, Output
from rnnforecast.training import OPTIMIZERS, SCHEDULES

if TYPE_CHECKING:
    from rnnforecast.forecasters.streaming import ForecastStream

__all__ = ["NeuralForecaster"]


class NeuralForecaster(BaseForecaster):
    """Base of the forecasters whose model is a :class:`~rnnforecast.nn.WindowNetwork`.

    A subclass declares its parameters in its own ``__init__``, those named below among them, and
    builds its network in :meth:`_network`.
    """

    lookback: int | None
    seasonality: int | None
    loss: str
    quantiles: Any
    scaler: str | None
    max_epochs: int
    batch_size: int | None
    lr: float
    lr_schedule: str
    optimizer: str
    weight_decay: float
    gradient_clip: float | None
    ema_decay: float | None
    early_stopping: bool
    validation_fraction: float
    patience: int
    device: str
    random_state: Any
    warm_start: bool
    verbose: int
    segment: int | None
    _segment_rule: Callable[[int, int], int]  # of season and look-back
    # those that not every subclass has as parameters
    training = "windows"
    calendar = False
    n_members: int = 1
    aggregate: str = "median"
    precision: str = "float32"
    n_jobs: int | None = None

    @abstractmethod
    def _network(self, panel: Panel, plan: Plan, output: Output) -> WindowNetwork:
        """A network of the right shape; its parameters are filled afterwards."""

    def _chosen(self, plan: Plan) -> dict[str, Any]:
        """Fitted attributes that tell further automatic choices."""
        return {}

    def _segment(self, plan: Plan) -> int:
        """Steps folded into one: given, or chosen by the class' rule."""
        if self.segment is None:
            return self._segment_rule(plan.season, plan.lookback)
        if self.segment > plan.lookback:
            raise DataError(
                f"{type(self).__name__}: segment must be at most the look-back, {plan.lookback}. "
                f"Got {self.segment}"
            )
        return self.segment

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("lookback", "seasonality"):
            check_int(owner, name, getattr(self, name), none=True)
        for name in ("early_stopping", "warm_start"):
            check_bool(owner, name, getattr(self, name))
        for name in ("max_epochs", "patience", "n_members"):
            check_int(owner, name, getattr(self, name))
        check_int(owner, "batch_size", self.batch_size, none=True)
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        check_real(owner, "weight_decay", self.weight_decay, 0, closed="low")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        check_real(owner, "ema_decay", self.ema_decay, 0, 1, closed="low", none=True)
        for name, choices in (
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
            ("aggregate", _members.AGGREGATES),
            ("precision", _training.PRECISIONS),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)
        check_int(owner, "n_jobs", self.n_jobs, minimum=-1, none=True)
        if self.n_jobs == 0:
            raise DataError(f"{owner}: n_jobs must be -1, positive or None. Got 0")

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        rule = (type(self), self.horizon, self.lookback, self.seasonality, self.calendar)
        plan = derived(
            panel,
            ("plan", *rule, self.validation_fraction),
            lambda: self._plan(panel, self.lookback, self.seasonality),
        )
        warm = self.networks_ if self.warm_start and hasattr(self, "networks_") else []
        runs = _training.prepare(self, panel, plan, warm)
        return {
            "lookback_": plan.lookback,
            "seasonality_": plan.season,
            "batch_size_": self.batch_size or _training.choose_batch_size(len(plan.train)),
            **self._chosen(plan),
            **self._trained(runs, self.max_epochs, self.early_stopping),
        }

    def _plan(self, panel: Panel, lookback: int | None, seasonality: int | None) -> Plan:
        return make_plan(
            type(self).__name__,
            panel,
            self.horizon,
            lookback,
            seasonality,
            self.validation_fraction,
            self.calendar,
        )

    def _trained(
        self, runs: list[_training.Run], max_epochs: int, early_stopping: bool
    ) -> dict[str, Any]:
        """Train every member; the fitted attributes of that."""
        histories = _members.fit_members(
            runs, max_epochs, early_stopping, self.verbose, self.n_jobs
        )
        errors = _members.calibrate(runs, self.aggregate)
        return {
            "history_": histories[0],
            "histories_": histories,
            "n_epochs_": len(histories[0]),
            "conformal_": ConformalErrors(errors, runs[0].units.target_scale),
            "model_": _members.model_of(runs, self.aggregate),
        }

    def partial_fit(self, X: Any, y: Any = None) -> NeuralForecaster:
        """Append new rows to the history and train one epoch further on all of it.

        Parameters
        ----------
        X, y
            As in ``update``; as in ``fit`` the first time.

        Returns
        -------
        self
        """
        self._check_params()
        if "panel_" not in vars(self):
            first = clone(self).set_params(max_epochs=1).fit(X, y)  # keeps own parameters as set
            self.__dict__.update({name: v for name, v in vars(first).items() if name.endswith("_")})
            return self
        panel = self._extended(X, y)
        plan = self._plan(panel, self.lookback_, self.seasonality_)
        plan = replace(plan, hidden_size=self.network_.spec.hidden_size)
        runs = _training.prepare(self, panel, plan, self.networks_, self.model_.units)
        self.__dict__.update({"panel_": panel, **self._trained(runs, 1, False)})
        return self

    # -- rolling origins ---------------------------------------------------------------------------

    def rolling_forecast(
        self, X: Any, y: Any = None, *, stride: int = 1, quantiles: Any = None
    ) -> pd.DataFrame:
        """Forecasts from every origin in new rows, in one batched pass.

        The same as ``update`` with the rows up to an origin and ``forecast`` after it, origin by
        origin; the estimator stays as it is.

        Parameters
        ----------
        X, y
            Observed rows after the cutoff of their series, as in ``update``. The first origin is
            the cutoff, the last one has ``horizon`` rows after it.
        stride : int, default 1
            Rows between neighbouring origins.
        quantiles : sequence of float, optional
            Levels in (0, 1). If given, the columns are (target, quantile).

        Returns
        -------
        DataFrame
            ``horizon`` rows an origin, indexed by (origin, time), or by (series, origin, time) for
            a panel; an origin is the stamp of the last row that its forecast knows.

        Raises
        ------
        DataError
            If no series has ``horizon`` new rows.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from rnnforecast import DeepGRUForecaster
        >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
        >>> fc = DeepGRUForecaster(horizon=2, lookback=6, max_epochs=1).fit(df[:70])
        >>> fc.rolling_forecast(df[70:]).shape  # from 9 origins
        (18, 1)
        """
        owner = type(self).__name__
        panel = self._extended(X, y)
        check_int(owner, "stride", stride)
        levels = None if quantiles is None else check_quantiles(owner, quantiles)
        first = self.panel_.lengths
        windows = WindowIndex.between(first, panel.lengths, self.horizon, stride)
        if not len(windows):
            longest = int((panel.lengths - first).max())
            raise DataError(
                f"{owner}: rolling_forecast needs horizon={self.horizon} new rows of a series at "
                f"least. Got {longest}"
            )
        series, origins = windows[np.arange(len(windows))]
        ahead = origins[:, None] + np.arange(self.horizon)
        known = panel.known[panel.indptr[series][:, None] + ahead]
        values = self.model_.future(panel, series, self.horizon, known, origins)
        if levels is None:
            values = self._point(values)
            columns: Any = self.target_names_
        else:
            values = self._quantiles_of(values, series, levels)
            columns = pd.MultiIndex.from_product(
                [self.target_names_, levels], names=["target", "quantile"]
            )
        index = _origin_index(panel, series, origins, ahead)
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)

    def stream(self, dtype: str = "float64") -> ForecastStream:
        """Forecasts that move on with every observation, at the cost of one step of the network.

        Parameters
        ----------
        dtype : {"float64", "float32"}, default "float64"
            Of the states; "float32" halves the cost for many series.

        Returns
        -------
        ForecastStream
            At the end of the history; see there.

        Raises
        ------
        DataError
            If the encoder is not causal: bidirectional, for example.
        """
        from rnnforecast.forecasters.streaming import ForecastStream

        return ForecastStream(self, dtype)

    # -- hooks of the contract ---------------------------------------------------------------------

    @property
    def network_(self) -> WindowNetwork:
        """The trained torch module."""
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no network_ before fit")
        return self.model_.network

    @property
    def networks_(self) -> list[WindowNetwork]:
        """The trained torch modules of all members."""
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no networks_ before fit")
        return self.model_.networks

    def _predict_future(self, series, n_steps, known):
        return self._point(self.model_.future(self.panel_, series, n_steps, known))

    def _predict_in_sample(self, series, positions, known):
        return self._point(self.model_.in_sample(self.panel_, series, positions, known))

    def _point(self, values: np.ndarray) -> np.ndarray:
        return self.model_.output.point(torch.as_tensor(values)).numpy()

    def _quantiles_future(self, series, n_steps, known, levels):
        return self._quantiles_of(
            self.model_.future(self.panel_, series, n_steps, known), series, levels
        )

    def _quantiles_of(self, values, series, levels):
        """Quantiles of forecasts ``(s, n_steps, n_targets, n_params)``."""
        if self.model_.output.n_params == 1:
            return self.conformal_.quantiles(self._point(values), series, levels)
        return self._interpolate(values, levels)

    def _quantiles_in_sample(self, series, positions, known, levels):
        values = self.model_.in_sample(self.panel_, series, positions, known)
        if self.model_.output.n_params == 1:
            point = self._point(values)[:, None]
            return self.conformal_.quantiles(point, series, levels)[:, 0]
        return self._interpolate(values, levels)

    def _interpolate(self, values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """Quantiles at ``levels`` from those trained, linear between neighbours."""
        trained = np.asarray(self.model_.output.levels)
        if levels[0] < trained[0] - 1e-9 or levels[-1] > trained[-1] + 1e-9:
            asked = [round(level, 10) for level in levels]
            raise DataError(
                f"{type(self).__name__}: quantiles {asked} reach beyond the trained ones, "
                f"{trained.tolist()}: fit with quantiles= that span them, or with "
                f"quantiles=None for conformal intervals"
            )
        right = np.clip(np.searchsorted(trained, levels), 1, len(trained) - 1)
        left = right - 1
        share = (np.asarray(levels) - trained[left]) / (trained[right] - trained[left])
        share = np.clip(share, 0.0, 1.0)
        return values[..., left] * (1 - share) + values[..., right] * share

    def _describe(self) -> list[str]:
        chosen = f"lookback={self.lookback_}, seasonality={self.seasonality_}"
        best = f"epoch {self.history_.best_epoch} of {self.n_epochs_}"
        return [*super()._describe(), chosen, best]

    def __getstate__(self):
        """Pickles hold the network on the CPU, so that a machine without a GPU can load them."""
        state = super().__getstate__().copy()
        if "model_" in state:
            state["model_"] = state["model_"].on_cpu()
        return state


def _origin_index(
    panel: Panel, series: np.ndarray, origins: np.ndarray, ahead: np.ndarray
) -> pd.MultiIndex:
    """(series, origin, time) of forecasts of rows ``ahead: (n, horizon)``, for windows in order."""
    steps = ahead.shape[1]
    who = np.repeat(series, steps)
    joined = [
        panel.stamps_at(who, np.repeat(origins - 1, steps)),
        panel.stamps_at(who, ahead.ravel()),
    ]
    names = ["origin", panel.names[-1]]
    if panel.is_panel:
        ids = panel.ids[who]
        joined = [*(ids.get_level_values(k) for k in range(ids.nlevels)), *joined]
        names = [*panel.names[:-1], *names]
    return pd.MultiIndex.from_arrays(joined, names=names)
