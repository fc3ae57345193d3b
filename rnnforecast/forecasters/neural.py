"""What forecasters with a windowed network share: training, forecasting, intervals, pickling."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any

import numpy as np
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
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import _training
from rnnforecast.forecasters._model import NetworkModel
from rnnforecast.forecasters._plan import Plan, make_plan
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.conformal import ConformalErrors
from rnnforecast.nn import WindowNetwork
from rnnforecast.outputs import LOSSES, Output
from rnnforecast.training import OPTIMIZERS, SCHEDULES, History

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
    batch_size: int
    lr: float
    lr_schedule: str
    optimizer: str
    weight_decay: float
    gradient_clip: float | None
    early_stopping: bool
    validation_fraction: float
    patience: int
    device: str
    random_state: Any
    warm_start: bool
    verbose: int
    training = "windows"

    @abstractmethod
    def _network(self, panel: Panel, plan: Plan, output: Output) -> WindowNetwork:
        """A network of the right shape; its parameters are filled afterwards."""

    def _chosen(self, plan: Plan) -> dict[str, Any]:
        """Fitted attributes that tell further automatic choices."""
        return {}

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("lookback", "seasonality"):
            check_int(owner, name, getattr(self, name), none=True)
        for name in ("early_stopping", "warm_start"):
            check_bool(owner, name, getattr(self, name))
        for name in ("max_epochs", "batch_size", "patience"):
            check_int(owner, name, getattr(self, name))
        check_real(owner, "validation_fraction", self.validation_fraction, 0, 1, closed="low")
        check_real(owner, "lr", self.lr, 0, closed="neither")
        check_real(owner, "weight_decay", self.weight_decay, 0, closed="low")
        check_real(owner, "gradient_clip", self.gradient_clip, 0, closed="high", none=True)
        for name, choices in (
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", SCHEDULES),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        if self.quantiles is not None:
            check_quantiles(owner, self.quantiles)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        plan = self._plan(panel, self.lookback, self.seasonality)
        warm = self.network_ if self.warm_start and hasattr(self, "network_") else None
        run = _training.prepare(self, panel, plan, warm)
        history = run.fit(self.max_epochs, self.early_stopping, self.verbose)
        return {
            "lookback_": plan.lookback,
            "seasonality_": plan.season,
            **self._chosen(plan),
            **self._finished(run, history),
        }

    def _plan(self, panel: Panel, lookback: int | None, seasonality: int | None) -> Plan:
        return make_plan(
            type(self).__name__,
            panel,
            self.horizon,
            lookback,
            seasonality,
            self.validation_fraction,
        )

    @staticmethod
    def _finished(run: _training.Run, history: History) -> dict[str, Any]:
        return {
            "history_": history,
            "n_epochs_": len(history),
            "conformal_": ConformalErrors(run.calibrate(), run.units.target_scale),
            "model_": run.model(),
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
        run = _training.prepare(self, panel, plan, self.network_, self.model_.units)
        history = run.fit(1, False, self.verbose)
        self.__dict__.update({"panel_": panel, **self._finished(run, history)})
        return self

    # -- hooks of the contract ---------------------------------------------------------------------

    @property
    def network_(self) -> WindowNetwork:
        """The trained torch module."""
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no network_ before fit")
        return self.model_.network

    def _predict_future(self, series, n_steps, known):
        return self._point(self.model_.future(self.panel_, series, n_steps, known))

    def _predict_in_sample(self, series, positions, known):
        return self._point(self.model_.in_sample(self.panel_, series, positions, known))

    def _point(self, values: np.ndarray) -> np.ndarray:
        return self.model_.output.point(torch.as_tensor(values)).numpy()

    def _quantiles_future(self, series, n_steps, known, levels):
        values = self.model_.future(self.panel_, series, n_steps, known)
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
        model: NetworkModel | None = state.get("model_")
        if model is not None and next(model.network.parameters()).device.type != "cpu":
            network = copy.deepcopy(model.network).to("cpu")
            state["model_"] = NetworkModel(network.double(), model.output, model.units)
        return state
