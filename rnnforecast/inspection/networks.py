"""The networks inside a fitted estimator, what they read, and their layers step by step."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError
from rnnforecast.metrics.wrappers import Unwrapped
from rnnforecast.nn import Cell, WindowNetwork
from rnnforecast.nn.cells import State
from rnnforecast.nn.sequence import SequenceNetwork
from rnnforecast.outputs import Forecast
from rnnforecast.training.source import Batch, static_inputs, to_inputs

__all__ = ["Sequences", "Windows", "read", "read_windows", "unrolled", "watch"]


# ---- layers, step by step ------------------------------------------------------------------------


class Watched(Cell):
    """A cell that runs step by step and keeps every output and state of a sequence."""

    def __init__(self, cell: Cell, around: Any):
        super().__init__(cell.input_size, cell.hidden_size)
        self.cell, self.around = cell, around
        self.steps: list[tuple[Tensor, State]] = []  # in the order in which they are read
        self._keeps = False

    @property
    def innermost(self) -> Cell:
        """The cell without what dilates it or keeps its state."""
        found = self.cell
        while isinstance(inner := getattr(found, "cell", None), Cell):
            found = inner
        return found

    def start(self, batch: int) -> State:
        return self.cell.start(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self._keeps:  # somebody else's step, such as a decoder's
            return self.cell.step(x, state)
        with self.around:
            found = self.cell.step(x, state)
        self.steps.append(found)
        return found

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        self.steps, self._keeps = [], True
        try:
            return super().scan(x, state, lengths)
        finally:
            self._keeps = False


def watch(network: Any, around: Any = nullcontext) -> tuple[Any, list[list[Watched]]]:
    """A copy of a network whose encoder runs step by step, and the watched cells of its layers: one
    each, or two where a layer reads in both directions. ``around()`` is a context of one's steps.
    """
    network = copy.deepcopy(network).requires_grad_(True)
    stack = network.stack if isinstance(network, SequenceNetwork) else network.encoder
    stack.precision = None
    found = []
    for depth, layer in enumerate(stack.layers):
        if stack.bidirectional:
            layer.ahead, layer.back = (
                Watched(part, around()) for part in (layer.ahead, layer.back)
            )
            found.append([layer.ahead, layer.back])
        else:
            stack.layers[depth] = Watched(layer, around())
            found.append([stack.layers[depth]])
    return network, found


def unrolled(layers: list[list[Watched]]) -> dict[str, tuple[Watched, bool]]:
    """Cells by name, and whether they read backwards."""
    found = {}
    for k, (ahead, *back) in enumerate(layers, 1):
        found[f"layer {k}" + (" forward" if back else "")] = (ahead, False)
        if back:
            found[f"layer {k} backward"] = (back[0], True)
    return found


# ---- what they read ------------------------------------------------------------------------------


def read(owner: str, estimator: Any, X: Any = None, *, windows: bool = False) -> Any:
    """What a display looks at: windows of a forecaster, or the sequences X.

    ``windows`` takes forecasters alone. An error begins with ``owner``.
    """
    found = Unwrapped(estimator, X)
    inner = found.forecaster
    if hasattr(type(inner), "fit"):
        check_is_fitted(inner)
    network = (getattr(inner, "networks_", None) or [None])[0]
    if isinstance(network, WindowNetwork):
        return Windows(owner, inner, found.X)
    if isinstance(network, SequenceNetwork) and not windows:
        return Sequences(owner, inner, found.X)
    others = "" if windows else ", SequenceRegressor or SequenceClassifier"
    raise DataError(
        f"{owner} takes a fitted DeepRNNForecaster (or one of its named forms), "
        f"SegmentRNNForecaster{others}, alone or in a Pipeline: a network that reads windows. Got "
        f"{type(inner).__name__}"
    )


def read_windows(owner: str, estimator: Any, X: Any, future: Any) -> tuple[Windows, Any]:
    """Windows of a forecaster, and future rows as it reads them."""
    future = None if future is None else Unwrapped(estimator, future).X
    return read(owner, estimator, X, windows=True), future


class Windows:
    """Windows of a fitted forecaster's history (or of other rows X), as its networks read them."""

    def __init__(self, owner: str, forecaster: Any, X: Any = None):
        self.owner, self.name = owner, type(forecaster).__name__
        self.forecaster = forecaster if X is None else forecaster._on(X)
        self.panel, self.networks = self.forecaster.panel_, self.forecaster.networks_
        self.spec = self.networks[0].spec
        self.segment, self.horizon = self.spec.segment, self.spec.horizon
        self.targets = list(forecaster.target_names_)
        self.scale = self.forecaster.scale_.target_scale

    # -- which -------------------------------------------------------------------------------------

    def network(self, member: int) -> Any:
        """The network of one member."""
        if not 0 <= member < len(self.networks):
            n = len(self.networks)
            raise DataError(f"{self.owner}: member must be from 0 to {n - 1}. Got {member!r}")
        return self.networks[member]

    def number(self, series: Any) -> int:
        """Position of a series, the first if None."""
        ids = self.panel.ids.tolist()
        if series is None:
            return 0
        if not self.panel.is_panel or series not in ids:
            shown = ", ".join(map(repr, ids[:5])) if self.panel.is_panel else "one without a name"
            raise DataError(f"{self.owner}: series must be one of the history's ({shown}). "
                            f"Got {series!r}")  # fmt: skip
        return ids.index(series)

    def target(self, target: Any) -> int:
        """Position of a target, the first if None."""
        if target is not None and target not in self.targets:
            raise DataError(f"{self.owner}: target must be one of {self.targets}. Got {target!r}")
        return 0 if target is None else self.targets.index(target)

    def title(self, i: int, target: int | None = None) -> str:
        """What a picture of series i is about."""
        names = [str(self.panel.ids[i])] if self.panel.is_panel else []
        if target is not None and len(self.targets) > 1:
            names.append(str(self.targets[target]))
        return ", ".join([self.name, *names])

    # -- batches -----------------------------------------------------------------------------------

    def take(self, series: np.ndarray, origins: np.ndarray, known: Any = None) -> Batch:
        """Windows and truth; ``known`` are future covariates in place of the history's."""
        forecaster, weight = self.forecaster, next(self.networks[0].parameters())
        rows = gather(self.panel, series, origins, self.spec.lookback, self.horizon)
        if known is not None:
            rows.future_known[...] = known
        static = static_inputs(self.panel, forecaster.scale_, forecaster.phases_, series, origins)
        return to_inputs(rows, forecaster.scale_, static, weight.device, weight.dtype)

    def ends(self, numbers: np.ndarray, future: Any = None) -> tuple[np.ndarray, Batch]:
        """Windows at the end of some series, with the rows ``future`` of known covariates."""
        known = None
        if self.panel.known.shape[1]:
            if future is None:
                names = self.forecaster.roles_.known
                raise DataError(
                    f"{self.owner}: future must hold the next {self.horizon} rows of the known "
                    f"covariates {names}, as forecast takes them. Got None"
                )
            rows = self.forecaster._rows_of(future)
            use = (rows.steps > 0) & (rows.steps <= self.horizon)
            known = np.full((self.panel.n_series, self.horizon, rows.known.shape[1]), np.nan)
            known[rows.series[use], rows.steps[use] - 1] = rows.known[use]
            known = known[numbers]
        origins = self.panel.lengths[numbers]
        return origins, self.take(numbers, origins, known)

    def spread(self, most: int, series: Any = None, y: Any = None) -> Batch:
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

    # -- what networks say -------------------------------------------------------------------------

    def loss(self, network: Any, batch: Batch) -> Tensor:
        """The loss that is trained, of a batch."""
        output = self.forecaster.output_
        each = [output.loss(output.forecast(*said), batch.truth) for said in network.says(batch[0])]
        return torch.stack(each).mean()

    def forward(self, network: Any, batch: Batch) -> None:
        """Let a network read a batch."""
        network(batch.inputs)

    def lengths(self, batch: Batch) -> Tensor | None:
        """Steps that each row has, None where all are as long."""
        return None

    def points(self, inputs: Any, numbers: np.ndarray) -> Tensor:
        """Point forecasts of all members, averaged as they are: (rows, horizon, n_targets) in the
        unit of the data, differentiable in the inputs.
        """
        scale, says = self.forecaster.scale_, []
        like = inputs.targets
        loc, unit = (
            torch.as_tensor(part[numbers])[:, None].to(like)
            for part in (scale.target_loc, scale.target_scale)
        )
        for network in self.networks:
            raw, location, own = network(inputs)
            said = (raw, loc + unit * location, unit * own)
            says.append(self.forecaster.output_.forecast(*said))
        return Forecast.averaged(says, self.forecaster.aggregate).point

    # -- time --------------------------------------------------------------------------------------

    def stamps(self, i: int, origin: int, n: int) -> tuple[pd.Index, int]:
        """Stamps of the last rows of the steps of a window, without those before the first row of
        the series, and how many these are.
        """
        rows = origin - 1 - self.segment * np.arange(n)[::-1]
        inside = rows >= 0
        return self.panel.stamps_at(np.full(inside.sum(), i), rows[inside]), int((~inside).sum())


class SequenceRows(NamedTuple):
    """Some sequences and their truth, as a network reads them."""

    x: Tensor
    steps: Tensor
    truth: Tensor | None


class Sequences:
    """Sequences that a fitted SequenceRegressor or SequenceClassifier is asked about."""

    segment = 1

    def __init__(self, owner: str, model: Any, X: Any):
        if X is None:
            raise DataError(
                f"{owner}: X must hold sequences to look at: {type(model).__name__} keeps none"
            )
        self.owner, self.name, self.forecaster = owner, type(model).__name__, model
        self.networks = model.networks_
        self.spec = self.networks[0].spec
        weight = next(self.networks[0].parameters())
        x, lengths = model._read(X, reset=False)
        self.x, self.steps = (p.to(weight.device) for p in model._tensors(x, lengths, weight.dtype))

    network = Windows.network

    def number(self, series: Any) -> int:
        """Position of a sequence, the first if None."""
        n = len(self.x)
        if series is not None and not (isinstance(series, (int, np.integer)) and 0 <= series < n):
            raise DataError(f"{self.owner}: series must be a row of X, 0 to {n - 1}. Got {series}")
        return int(series or 0)

    def title(self, i: int, target: int | None = None) -> str:
        """What a picture of sequence i is about."""
        return f"{self.name}, sequence {i}"

    def spread(self, most: int, series: Any = None, y: Any = None) -> SequenceRows:
        """At most ``most`` sequences, or one, with their truth where y is given."""
        n = len(self.x)
        rows = np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)
        rows = rows if series is None else np.array([self.number(series)])
        return SequenceRows(self.x[rows], self.steps[rows], self._truth(y, rows))

    def _truth(self, y: Any, rows: np.ndarray) -> Tensor | None:
        if y is None:
            return None
        y, model = np.asarray(y), self.forecaster
        if len(y) != len(self.x):
            raise DataError(f"{self.owner}: y must have {len(self.x)} rows. Got {len(y)}")
        if hasattr(model, "classes_"):
            return torch.from_numpy(np.searchsorted(model.classes_, y[rows])).to(self.x.device)
        scaled = (y.reshape(len(y), -1)[rows] - model.y_location_) / model.y_scale_
        return torch.from_numpy(scaled).to(next(self.networks[0].parameters()))

    def loss(self, network: Any, batch: SequenceRows) -> Tensor:
        """The loss that is trained, of a batch."""
        if batch.truth is None:
            raise DataError(f"{self.owner}: y must hold the answers to the sequences of X")
        error = self.forecaster._loss(vars(self.forecaster), batch.x.device)
        return error(network(batch.x, batch.steps), batch.truth)

    def forward(self, network: Any, batch: SequenceRows) -> None:
        """Let a network read a batch."""
        network(batch.x, batch.steps)

    def lengths(self, batch: SequenceRows) -> Tensor | None:
        """Steps that each row has."""
        return batch.steps
