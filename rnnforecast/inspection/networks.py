"""The networks inside a fitted forecaster, the windows they read, and their layers step by step."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from rnnforecast._validation import check_choice
from rnnforecast.data.reading import future_known
from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError
from rnnforecast.metrics.wrappers import Unwrapped
from rnnforecast.nn import Cell, WindowNetwork
from rnnforecast.nn.cells import State
from rnnforecast.outputs import Forecast
from rnnforecast.training.source import Batch, static_inputs, to_inputs

__all__ = ["Watched", "Windows", "watch"]


class Watched(Cell):
    """One cell of an encoder, made to read step by step, and what it gave at each step."""

    def __init__(self, cell: Any, backward: bool, around: Any):
        super().__init__(cell.input_size, cell.hidden_size)
        self.cell, self.backward, self.around = cell, backward, around
        self.steps: list[tuple[Tensor, State]] = []  # in the order in which they are read
        self._reading = False

    def start(self, batch: int) -> State:
        return self.cell.start(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self._reading:  # a step of a decoder with the same cell
            return self.cell.step(x, state)
        with self.around:
            self.steps.append(self.cell.step(x, state))
        return self.steps[-1]

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        self.steps, self._reading = [], True
        try:
            return super().scan(x, state, lengths)
        finally:
            self._reading = False

    @property
    def innermost(self) -> Cell:
        """The cell without what dilates it or keeps its state."""
        found = self.cell
        while isinstance(inner := getattr(found, "cell", None), Cell):
            found = inner
        return found


def watch(network: Any, around: Any = nullcontext) -> tuple[Any, dict[str, Watched]]:
    """A copy of a network, and the watched cells of its encoder by name; ``around()`` is a context
    of a cell's steps.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    stack, found = network.encoder, {}
    stack.precision = None
    for k, layer in enumerate(stack.layers, 1):
        if stack.bidirectional:
            layer.ahead = found[f"layer {k} forward"] = Watched(layer.ahead, False, around())
            layer.back = found[f"layer {k} backward"] = Watched(layer.back, True, around())
        else:
            stack.layers[k - 1] = found[f"layer {k}"] = Watched(layer, False, around())
    return network, found


class Windows:
    """Windows of a fitted forecaster's history, or of other rows X, as its networks read them."""

    def __init__(self, owner: str, estimator: Any, X: Any = None):
        found = Unwrapped(estimator, X)
        model, self.owner, self.name = found.forecaster, owner, type(found.forecaster).__name__
        if hasattr(type(model), "fit"):
            check_is_fitted(model)
        if not isinstance((getattr(model, "networks_", None) or [None])[0], WindowNetwork):
            raise DataError(
                f"{owner} takes a fitted DeepRNNForecaster (or one of its named forms) or "
                f"SegmentRNNForecaster, alone or in a Pipeline: a network that reads windows. Got "
                f"{self.name}"
            )
        self.forecaster = model if found.X is None else model._on(found.X)
        self.panel, self.networks = self.forecaster.panel_, self.forecaster.networks_
        self.spec = self.networks[0].spec
        self.horizon, self.targets = self.spec.horizon, list(model.target_names_)
        self.scale = self.forecaster.scale_.target_scale

    def network(self, member: int) -> Any:
        """The network of one member."""
        check_choice(self.owner, "member", member, range(len(self.networks)))
        return self.networks[member]

    def number(self, series: Any) -> int:
        """Position of a series, the first if None."""
        ids = self.panel.ids.tolist() if self.panel.is_panel else []
        check_choice(self.owner, "series", series, [None, *ids])
        return 0 if series is None else ids.index(series)

    def target(self, target: Any) -> int:
        """Position of a target, the first if None."""
        check_choice(self.owner, "target", target, [None, *self.targets])
        return 0 if target is None else self.targets.index(target)

    def about(self, i: int, target: int = 0) -> str:
        """What a picture of series i is about."""
        names = [str(self.panel.ids[i])] if self.panel.is_panel else []
        names += [str(self.targets[target])] if len(self.targets) > 1 else []
        return ", ".join([self.name, *names])

    def take(self, series: np.ndarray, origins: np.ndarray, known: Any = None) -> Batch:
        """Windows and truth; ``known`` are future covariates in place of the history's."""
        forecaster, weight = self.forecaster, next(self.networks[0].parameters())
        rows = gather(self.panel, series, origins, self.spec.lookback, self.horizon)
        if known is not None:
            rows.future_known[...] = known
        static = static_inputs(self.panel, forecaster.scale_, forecaster.phases_, series, origins)
        return to_inputs(rows, forecaster.scale_, static, weight.device, weight.dtype)

    def known(self, estimator: Any, future: Any) -> np.ndarray:
        """Future covariates of all series: (n_series, horizon, n_known)."""
        names = self.forecaster.roles_.known
        if not names:
            return np.empty((self.panel.n_series, self.horizon, 0))
        if future is None:
            raise DataError(
                f"{self.owner}: future must hold the next {self.horizon} rows of the known "
                f"covariates {names}, as forecast takes them. Got None"
            )
        rows = self.forecaster._rows_of(Unwrapped(estimator, future).X)
        return future_known(self.owner, self.panel, names, rows, self.horizon)

    def spread(self, most: int, series: Any = None) -> Batch:
        """At most ``most`` windows with truth, spread over the history of all series, or of one."""
        lengths = self.panel.lengths
        if series is not None:
            lengths = np.where(np.arange(len(lengths)) == self.number(series), lengths, 0)
        held = np.zeros_like(lengths)
        windows = WindowIndex.training(lengths, held, self.spec.lookback, self.horizon)
        if not len(windows):
            raise DataError(
                f"{self.owner} needs a series of at least {self.horizon + 1} rows, one to look "
                f"back on and the horizon. Got {int(lengths.max())}"
            )
        return self.take(*windows[windows.spread(most)])

    def loss(self, network: Any, batch: Batch) -> Tensor:
        """The loss that is trained, of a batch."""
        output = self.forecaster.output_
        each = [output.loss(output.forecast(*said), batch.truth) for said in network.says(batch[0])]
        return torch.stack(each).mean()

    def points(self, inputs: Any, numbers: np.ndarray) -> Tensor:
        """Point forecasts of all members together: (rows, horizon, n_targets) in the unit of the
        data, differentiable in the inputs.
        """
        scale, says = self.forecaster.scale_, []
        loc, unit = (
            torch.as_tensor(part[numbers])[:, None].to(inputs.targets)
            for part in (scale.target_loc, scale.target_scale)
        )
        for network in self.networks:
            raw, location, own = network(inputs)
            said = (raw, loc + unit * location, unit * own)
            says.append(self.forecaster.output_.forecast(*said))
        return Forecast.averaged(says, self.forecaster.aggregate).point

    def stamps(self, i: int, rows: np.ndarray) -> pd.Index:
        """Stamps of rows, counted from the first one after the history of series i, without those
        before its first one.
        """
        rows = self.panel.lengths[i] + rows
        rows = rows[rows >= 0]
        return self.panel.stamps_at(np.full(len(rows), i), rows)

    def steps(self, i: int, n: int) -> pd.Index:
        """Stamps of the last rows of the network's n steps."""
        return self.stamps(i, -1 - self.spec.segment * np.arange(n)[::-1])
