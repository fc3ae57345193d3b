"""What a network holds in mind: hidden states, gates and attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode

from rnnforecast._validation import check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, color_bar, heat_map, tidy, time_axis
from rnnforecast.inspection.networks import read, unrolled, watch
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


@dataclass(kw_only=True, eq=False, repr=False)
class HiddenStateDisplay(Display):
    """The output of a recurrent layer at each step of one window.

    Parts: ``"heatmap"`` (units over time), ``"path"`` (the first two principal components),
    ``"autocorrelation"`` (of each unit, and their mean).

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

    states: pd.DataFrame
    components: pd.DataFrame
    explained: np.ndarray
    autocorrelation: pd.DataFrame
    title: str = ""

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
        n_lags: int = 40,
    ) -> HiddenStateDisplay:
        """Read the window at the end of a history, step by step.

        Parameters
        ----------
        estimator : DeepRNNForecaster, SegmentRNNForecaster, SequenceRegressor, SequenceClassifier
            Fitted, alone or in a Pipeline.
        X : optional
            Rows to look at instead of the history, as ``forecast(history=)`` takes them. For a
            sequence estimator sequences, needed.
        series : hashable, optional
            Which series, or which row of X for a sequence estimator; the first if None.
        target : hashable, optional
            Which target, where each is read by itself; the first if None.
        layer : int, default -1
            From 0; -1 is the last.
        member : int, default 0
            Which of several networks.
        n_lags : int, default 40
            Of the autocorrelation, at most half of the steps.

        Returns
        -------
        HiddenStateDisplay
        """
        check_int(cls.__name__, "n_lags", n_lags)
        subject = read(cls.__name__, estimator, X)
        network, watched = watch(subject.network(member))
        if not -len(watched) <= layer < len(watched):
            least, most = -len(watched), len(watched) - 1
            raise DataError(f"{cls.__name__}: layer must be {least} to {most}. Got {layer!r}")
        i, row = subject.number(series), 0
        sequences = not hasattr(subject, "panel")
        with torch.no_grad():
            if sequences:
                batch = subject.spread(1, i)
                subject.forward(network, batch)
                n = int(batch.steps[0])
                index, skipped = pd.RangeIndex(n, name="step"), 0
            else:
                chosen = subject.target(target)
                origin = int(subject.panel.lengths[i])
                inputs = subject.take(np.array([i]), np.array([origin])).inputs
                network.context(network.normalise(network.take_effect(inputs)), inputs)
                steps = watched[layer][0].steps
                row = chosen if len(steps[0][0]) > 1 else 0
                index, skipped = subject.stamps(i, origin, n := len(steps))
        parts = []
        for backward, cell in enumerate(watched[layer]):
            out = torch.stack([step[0][row] for step in cell.steps[:n]]).double().cpu().numpy()
            parts.append((out[::-1] if backward else out)[skipped:])
        states = pd.DataFrame(np.concatenate(parts, 1), index=index)
        components, explained = _principal(states)
        lags = min(n_lags, max(len(states) // 2, 1))
        return cls(
            states=states.rename_axis(columns="unit"),
            components=components,
            explained=explained,
            autocorrelation=_autocorrelation(states, lags),
            title=f"{subject.title(i)}, layer {range(len(watched))[layer] + 1}",
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


def _principal(states: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The first two principal components, and the shares of the variance that they explain."""
    centred = states.to_numpy() - states.to_numpy().mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores, shares = np.zeros((len(states), 2)), np.zeros(2)
    n = min(2, len(s))
    scores[:, :n] = u[:, :n] * s[:n]
    shares[:n] = s[:n] ** 2 / max(float((s**2).sum()), 1e-300)
    return pd.DataFrame(scores, index=states.index, columns=[1, 2]), shares


def _autocorrelation(states: pd.DataFrame, lags: int) -> pd.DataFrame:
    from statsmodels.tsa.stattools import acf

    found = {
        unit: acf(values, nlags=lags) if values.std() > 1e-12 else np.full(lags + 1, np.nan)
        for unit, values in states.items()
    }
    return pd.DataFrame(found).rename_axis(index="lag", columns="unit")


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


@dataclass(kw_only=True, eq=False, repr=False)
class GateDisplay(Display):
    """How far the gates of each layer are open, and the share that is saturated.

    A gate is whatever a cell's ``step`` passes through a sigmoid. Where it is below 0.1 or above
    0.9 (Karpathy et al. 2015, arXiv:1506.02078, section 4.1) it hardly learns any more, but a
    forget gate above 0.9 is what remembers.

    Part: ``"gates"``.

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

    gates: pd.DataFrame
    title: str = ""

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
        """Read some windows and look at every sigmoid.

        Parameters
        ----------
        estimator, X, series, member, n_windows
            As of :meth:`GradientFlowDisplay.from_estimator`.

        Returns
        -------
        GateDisplay

        Raises
        ------
        DataError
            If the cell has no gate.
        """
        check_int(cls.__name__, "n_windows", n_windows)
        subject = read(cls.__name__, estimator, X)
        network, watched = watch(subject.network(member), _Sigmoids)
        batch = subject.spread(n_windows, series)
        with torch.no_grad():
            subject.forward(network, batch)
        rows = {}
        for name, (cell, _) in unrolled(watched).items():
            kind = next((k for k, c in CELLS.items() if c is type(cell.innermost)), "")
            values = [torch.stack(each) for each in zip(*cell.around.steps)]
            for k, value in enumerate(_of_rows(values, subject.lengths(batch))):
                names = _GATES.get(kind, ())
                gate = names[k] if len(names) == len(values) else f"gate {k + 1}"
                shut, opened = (value < _SHUT).mean(), (value > _OPEN).mean()
                rows[name, gate] = {"mean": value.mean(), "shut": shut, "open": opened}
        if not rows:
            raise DataError(f"{cls.__name__}: the cell {subject.spec.cell!r} has no gate")
        table = pd.DataFrame(rows).T.rename_axis(["layer", "gate"])
        return cls(gates=table, title=subject.name)

    def _draw_gates(self, ax: Any) -> None:
        table, y = self.gates, np.arange(len(self.gates))
        left = np.zeros(len(y))
        for label, share, color in (
            (f"shut (< {_SHUT})", table["shut"], "#b2182b"),
            ("in between", 1 - table["shut"] - table["open"], "0.85"),
            (f"open (> {_OPEN})", table["open"], "#2166ac"),
        ):
            ax.barh(y, share, left=left, color=color, height=0.65, label=label)
            left = left + share.to_numpy()
        ax.plot(table["mean"], y, "kD", ms=5, label="mean value")
        ax.set_yticks(y, [f"{layer}, {gate}" for layer, gate in table.index])
        ax.set_ylim(len(y) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        tidy(
            ax,
            self.title,
            "share of units, steps and windows (bar); value of the gate (diamond)",
            "",
            legend=True,
        )
        ax.grid(axis="y", visible=False)


def _of_rows(values: list[torch.Tensor], lengths: Any) -> list[np.ndarray]:
    """Gates ``(steps, rows, ...)`` as flat arrays, without steps after a row's end."""
    found = []
    for value in values:
        if lengths is not None:
            value = value[torch.arange(len(value), device=value.device)[:, None] < lengths]
        found.append(value.double().flatten().cpu().numpy())
    return found


@dataclass(kw_only=True, eq=False, repr=False)
class AttentionDisplay(Display):
    """Which steps of the look-back each step of a forecast attends to.

    Part: ``"heatmap"``.

    Parameters
    ----------
    weights : DataFrame
        Indexed by the time of the step ahead, columns by that of the step looked back on; rows add
        up to 1. Of a sequence estimator: sequences and their steps.
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

    weights: pd.DataFrame
    title: str = ""
    ahead: str = field(default="step ahead")

    _mosaic = [["heatmap"]]

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, series: Any = None, target: Any = None
    ) -> AttentionDisplay:
        """Take the weights of the next forecast, mean over members.

        Parameters
        ----------
        estimator : DeepRNNForecaster, SequenceRegressor or SequenceClassifier
            Fitted with ``attention``, alone or in a Pipeline.
        X, series, target
            As of :meth:`HiddenStateDisplay.from_estimator`; sequences are shown all, or the row
            ``series``.

        Returns
        -------
        AttentionDisplay

        Raises
        ------
        DataError
            If it has no attention.
        """
        subject = read(cls.__name__, estimator, X)
        if getattr(subject.spec, "attention", None) is None:
            raise DataError(
                f"{cls.__name__} needs a network with attention: fit with attention='dot'. Got "
                f"{subject.name} without"
            )
        i = subject.number(series)
        if not hasattr(subject, "panel"):
            batch = subject.spread(len(subject.x), series)
            with torch.no_grad():
                each = [net.answer(batch.x, batch.steps)[1] for net in subject.networks]
            weights = pd.DataFrame(torch.stack(each).mean(0).double().cpu().numpy())
            weights = weights.rename_axis(index="sequence", columns="step")
            return cls(weights=weights, title=subject.name, ahead="sequence")
        j, panel = subject.target(target), subject.panel
        table = subject.forecaster.attention_weights()
        if panel.is_panel:
            table = table.iloc[i * subject.horizon : (i + 1) * subject.horizon]
            table = table.droplevel(list(range(table.index.nlevels - 1)))
        names = table.columns.unique(0)
        table = table[names[j if len(names) > 1 else 0]]
        origin = int(panel.lengths[i])
        stamps, skipped = subject.stamps(i, origin, table.shape[1])
        weights = table.iloc[:, skipped:].set_axis(stamps, axis=1)
        return cls(weights=weights, title=f"{subject.title(i, j)}: attention")

    def _draw_heatmap(self, ax: Any) -> None:
        table = self.weights
        heat_map(ax, time_axis(ax, table.columns), table.to_numpy(), "weight", diverging=False)
        tidy(ax, self.title, str(table.columns.name or "look-back"), self.ahead)
        if self.ahead != "sequence":
            ticks = np.arange(0, len(table), max(len(table) // 6, 1))
            ax.set_yticks(ticks, [f"{k + 1}" for k in ticks])
            ax.set_ylabel(f"{self.ahead} (from {_stamp(table.index[0])})")


def _stamp(stamp: Any) -> str:
    text = str(stamp)
    return text.removesuffix(" 00:00:00").removesuffix(":00")
