"""What a network holds in mind: hidden states, gates and attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode

from rnnforecast._validation import check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import (
    Display,
    autocorrelation,
    color_bar,
    heat_map,
    tidy,
    time_axis,
)
from rnnforecast.inspection.networks import Windows, watch
from rnnforecast.nn import CELLS

__all__ = ["AttentionDisplay", "GateDisplay", "HiddenStateDisplay"]

_SIGMOIDS = (torch.sigmoid, torch.special.expit, torch.Tensor.sigmoid)
_SHUT, _OPEN = 0.1, 0.9

# the sigmoids of a step, in the order in which the equations call them
_GATES = {
    "rnn": ("activation",),
    "indrnn": ("activation",),
    "lstm": ("forget", "input", "output"),
    "lstm_peephole": ("forget", "input", "output"),
    "gru": ("update", "reset"),
    "gru_cho": ("update", "reset"),
    "mgu": ("update",),
    "mingru": ("update",),
    "minlstm": ("forget", "input"),
    "slstm": ("output",),
    "mlstm": ("output",),
}


class HiddenStateDisplay(Display):
    """The output of a recurrent layer at each step of the window at the end of a history.

    Three parts: units over time; their path along the first two principal components; their
    autocorrelation.

    Parameters
    ----------
    states : DataFrame
        A row for each step of the network, indexed by the time stamp of its last row, a column for
        each unit; those of the backward direction follow those of the forward one.
    components : DataFrame
        The same steps as the first two principal components.
    explained : ndarray of shape (2,)
        Their shares of the variance.
    autocorrelation : DataFrame
        By lag in steps, a column for each unit; NaN for a unit that never changes.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import HiddenStateDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> quick = {"max_epochs": 1, "lookback": 24, "segment": 1}
    >>> fc = DeepGRUForecaster(hidden_size=4, random_state=0, **quick).fit(df)
    >>> HiddenStateDisplay.from_estimator(fc).states.shape
    (24, 4)
    """

    title: str
    states: pd.DataFrame
    components: pd.DataFrame
    explained: np.ndarray
    autocorrelation: pd.DataFrame

    _mosaic = [["heatmap", "heatmap"], ["path", "autocorrelation"]]
    _size = (9.0, 6.6)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        series: Any = None,
        target: Any = None,
        layer: int = -1,
        member: int = 0,
    ) -> HiddenStateDisplay:
        """Read the window at the end of a history, step by step.

        Parameters
        ----------
        target : hashable, optional
            Which target, where each is read by itself; the first if None.
        layer : int, default=-1
            From 0; -1 is the last.
        """
        windows = Windows(cls.__name__, estimator, X)
        network, watched = watch(windows.network(member))
        depth = len(network.encoder.layers)
        check_choice(cls.__name__, "layer", layer, range(-depth, depth))
        i, chosen = windows.number(series), windows.target(target)
        inputs = windows.take(np.array([i]), windows.panel.lengths[[i]]).inputs
        with torch.no_grad():
            network.context(network.normalise(network.take_effect(inputs)), inputs)
        parts, number = [], range(depth)[layer] + 1
        for name, cell in watched.items():
            if name.split()[1] == str(number):
                out = torch.stack([out for out, _ in cell.steps]).double().cpu().numpy()
                out = out[:, chosen if out.shape[1] > 1 else 0]
                parts.append(out[::-1] if cell.backward else out)
        values = np.concatenate(parts, 1)
        index = windows.steps(i, len(values))
        states = pd.DataFrame(values[-len(index) :], index=index).rename_axis(columns="unit")
        u, s, _ = np.linalg.svd(states - states.mean(), full_matrices=False)
        scores = np.pad(u * s, ((0, 0), (0, 1)))[:, :2]  # one unit has one component
        return cls(
            states=states,
            components=pd.DataFrame(scores, index=index, columns=[1, 2]),
            explained=np.append(s, 0.0)[:2] ** 2 / max(float((s**2).sum()), 1e-300),
            autocorrelation=states.apply(autocorrelation),
            title=f"{windows.about(i, chosen)}, layer {number}",
        )

    def _draw_heatmap(self, ax: Any) -> None:
        x = time_axis(ax, self.states.index)
        heat_map(ax, x, self.states.to_numpy().T, "output of a unit")
        tidy(ax, self.title, str(self.states.index.name or ""), "unit")
        ax.yaxis.get_major_locator().set_params(integer=True)

    def _draw_path(self, ax: Any) -> None:
        first, second = self.components.to_numpy().T
        ax.plot(first, second, color="0.8", lw=0.8, zorder=1)
        steps = np.arange(len(first)) - len(first) + 1
        dots = ax.scatter(first, second, c=steps, cmap="viridis", s=14, zorder=2)
        ax.plot(first[-1], second[-1], "k*", ms=9, label="newest step")
        x, y = (f"component {k + 1} ({share:.0%})" for k, share in enumerate(self.explained))
        tidy(ax, "path of the state", x, y, legend=True)
        color_bar(ax, dots, "steps before the newest")

    def _draw_autocorrelation(self, ax: Any) -> None:
        table = self.autocorrelation
        ax.axhline(0, color="0.6", lw=0.8)
        ax.plot(table.index, table, color="C0", lw=0.7, alpha=0.35)
        ax.plot(table.index, table.mean(axis=1), color="C0", lw=2.0, label="mean of units")
        ax.set_ylim(-1.05, 1.05)
        ax.xaxis.get_major_locator().set_params(integer=True)
        tidy(ax, "memory of the units", "lag in steps", "autocorrelation", legend=True)


class _Sigmoids(TorchFunctionMode):
    """Keeps what sigmoids gave at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[torch.Tensor]] = []

    def __enter__(self) -> _Sigmoids:
        self.steps.append([])
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _SIGMOIDS:
            self.steps[-1].append(found.detach())
        return found


class GateDisplay(Display):
    """How far the gates of each layer are open, and the share that is saturated.

    A gate is whatever a cell's ``step`` passes through a sigmoid. Where it is below 0.1 or above
    0.9 (Karpathy et al. 2015, arXiv:1506.02078, section 4.1) it hardly learns any more, but a
    forget gate above 0.9 is what remembers.

    Parameters
    ----------
    gates : DataFrame
        Indexed by (layer, gate), mean over units, steps and windows: ``mean``, ``shut`` (share
        below 0.1) and ``open`` (share above 0.9). The gates of the library's cells have their
        names, those of others are "gate 1", "gate 2", ... in the order of the equations.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import GateDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> quick = {"max_epochs": 1, "hidden_size": 4, "n_layers": 1}
    >>> fc = DeepGRUForecaster(random_state=0, **quick).fit(df)
    >>> GateDisplay.from_estimator(fc).gates.index.tolist()
    [('layer 1', 'update'), ('layer 1', 'reset')]
    """

    title: str
    gates: pd.DataFrame

    _mosaic = [["gates"]]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        series: Any = None,
        member: int = 0,
        n_windows: int = 64,
    ) -> GateDisplay:
        """Read some windows and look at every sigmoid."""
        check_int(cls.__name__, "n_windows", n_windows)
        windows = Windows(cls.__name__, estimator, X)
        network, watched = watch(windows.network(member), _Sigmoids)
        with torch.no_grad():
            network(windows.spread(n_windows, series).inputs)
        rows = {}
        for name, cell in watched.items():
            kind = next((k for k, c in CELLS.items() if c is type(cell.innermost)), "")
            gates = list(zip(*cell.around.steps))
            names = _GATES.get(kind, ())
            if len(names) != len(gates):
                names = tuple(f"gate {k + 1}" for k in range(len(gates)))
            for gate, steps in zip(names, gates):
                value = torch.stack(steps).double().cpu().numpy()
                shut, opened = (value < _SHUT).mean(), (value > _OPEN).mean()
                rows[name, gate] = {"mean": value.mean(), "shut": shut, "open": opened}
        if not rows:
            raise DataError(f"{cls.__name__}: the cell {windows.spec.cell!r} has no gate")
        return cls(gates=pd.DataFrame(rows).T.rename_axis(["layer", "gate"]), title=windows.name)

    def _draw_gates(self, ax: Any) -> None:
        shut, opened = self.gates["shut"], self.gates["open"]
        shares = {f"shut (< {_SHUT})": shut, "in between": 1 - shut - opened}
        table = pd.DataFrame({**shares, f"open (> {_OPEN})": opened}).set_axis(
            [f"{layer}, {gate}" for layer, gate in self.gates.index]
        )
        colors = ["#b2182b", "0.85", "#2166ac"]
        table.plot.barh(ax=ax, stacked=True, color=colors, width=0.65)
        ax.plot(self.gates["mean"], np.arange(len(table)), "kD", ms=5, label="mean value")
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        x = "share of units, steps and windows (bar); value of the gate (diamond)"
        tidy(ax, self.title, x, "", legend=True)
        ax.grid(axis="y", visible=False)


class AttentionDisplay(Display):
    """Which steps of the look-back each step of a forecast attends to.

    Parameters
    ----------
    weights : DataFrame
        Indexed by the time of the step ahead, columns by that of the step looked back on; rows add
        up to 1. Mean over members.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import AttentionDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> quick = {"max_epochs": 1, "hidden_size": 4, "lookback": 24, "segment": 1}
    >>> fc = DeepGRUForecaster(horizon=3, attention="dot", **quick).fit(df)
    >>> AttentionDisplay.from_estimator(fc).weights.shape
    (3, 24)
    """

    title: str
    weights: pd.DataFrame

    _mosaic = [["heatmap"]]

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, series: Any = None, target: Any = None
    ) -> AttentionDisplay:
        """Take the weights of the next forecast of an estimator that was fitted with attention."""
        windows = Windows(cls.__name__, estimator, X)
        if getattr(windows.spec, "attention", None) is None:
            raise DataError(
                f"{cls.__name__} needs a network with attention: fit with attention='dot'. Got "
                f"{windows.name} without"
            )
        i, j = windows.number(series), windows.target(target)
        table = windows.forecaster.attention_weights()
        rows = table.iloc[i * windows.horizon : (i + 1) * windows.horizon]
        names = table.columns.unique(0)
        rows = rows[names[j if len(names) > 1 else 0]]
        stamps = windows.steps(i, rows.shape[1])
        weights = rows.iloc[:, -len(stamps) :].set_axis(stamps, axis=1)
        weights = weights.set_axis(weights.index.get_level_values(-1))
        return cls(weights=weights, title=f"{windows.about(i, j)}: attention")

    def _draw_heatmap(self, ax: Any) -> None:
        table = self.weights
        heat_map(ax, time_axis(ax, table.columns), table.to_numpy(), "weight", diverging=False)
        first = str(table.index[0]).removesuffix(" 00:00:00").removesuffix(":00")
        tidy(ax, self.title, str(table.columns.name or "look-back"), f"step ahead (from {first})")
        ticks = np.arange(0, len(table), max(len(table) // 6, 1))
        ax.set_yticks(ticks, [f"{k + 1}" for k in ticks])
