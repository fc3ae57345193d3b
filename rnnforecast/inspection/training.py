"""How a network was trained, and how far its gradient reaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from rnnforecast._validation import check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, tidy
from rnnforecast.inspection.networks import Watched, Windows, watch
from rnnforecast.metrics.wrappers import layers
from rnnforecast.nn import IndRNNCell, LRUCell
from rnnforecast.nn.cells import RNNCell

__all__ = ["GradientFlowDisplay", "TrainingCurveDisplay"]

_LEFT, _GROWN = 1e-3, 1e2  # of the newest step's gradient at the oldest: vanishing, exploding


class TrainingCurveDisplay(Display):
    """Losses of all members by epoch, and the epoch whose weights were kept.

    Parameters
    ----------
    curves : DataFrame
        Indexed by (member, epoch), with columns ``train_loss``, ``val_loss`` (NaN without
        validation), ``grad_norm``, ``lr`` and ``seconds``.
    best_epochs : Series
        By member, from 1.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import TrainingCurveDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = DeepGRUForecaster(max_epochs=2, hidden_size=4, random_state=0).fit(df)
    >>> TrainingCurveDisplay.from_estimator(fc).curves.index.tolist()
    [(0, 1), (0, 2)]
    """

    title: str
    curves: pd.DataFrame
    best_epochs: pd.Series

    _mosaic = [["loss"]]

    @classmethod
    def from_estimator(cls, estimator: Any) -> TrainingCurveDisplay:
        """Take the curves of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Any that trains networks, alone or in a Pipeline.
        """
        model = layers(estimator)[-1]
        histories = getattr(model, "histories_", None)
        if not histories:
            raise DataError(
                f"{cls.__name__} takes a fitted estimator that trains networks, such as "
                f"DeepRNNForecaster. Got {type(model).__name__}, which has no histories_"
            )
        frames = dict(enumerate(history.frame() for history in histories))
        best = pd.Series({k: history.best_epoch for k, history in enumerate(histories)})
        curves = pd.concat(frames, names=["member"])
        return cls(curves=curves, best_epochs=best, title=type(model).__name__)

    def _draw_loss(self, ax: Any) -> None:
        lines = {"train_loss": ("training", "C0"), "val_loss": ("held out", "C1")}
        seen = [name for name in lines if self.curves[name].notna().any()]
        for name in seen:
            label, color = lines[name]
            for member, curve in self.curves[name].groupby(level=0):
                epochs = curve.index.get_level_values(1)
                style: dict[str, Any] = {"color": color, "lw": 1.4, "marker": ".", "ms": 4}
                ax.plot(epochs, curve, label="_" if member else label, alpha=0.85, **style)
        best = [self.curves.loc[(m, e), seen[-1]] for m, e in self.best_epochs.items()]
        ax.plot(self.best_epochs, best, "k*", ms=9, zorder=3, label="weights kept")
        ax.xaxis.get_major_locator().set_params(integer=True)
        tidy(ax, self.title, "epoch", "loss", legend=True)


class GradientFlowDisplay(Display):
    """How far back the gradient of the loss reaches in each layer, and a verdict in words.

    A recurrent layer learns from a step k rows back only as much as the gradient of the loss that
    arrives at its hidden state of that step, which is a product of k Jacobians (Pascanu et al.
    2013, arXiv:1211.5063, eq. 5). Its norm is measured at every step of the look-back, and a
    factor per step fitted to it. Works for every cell, in both directions; where a layer's output
    is no part of its state, the norm is that of both.

    Parameters
    ----------
    norms : DataFrame
        Norm of the gradient of a window's loss with respect to the hidden state, mean over windows;
        indexed by ``lag`` in rows back from the origin, one column for each layer and direction.
    summary : DataFrame
        By layer: ``gradient``, the norm of that of its weights; ``factor`` of the norm for each
        step in the direction of reading; ``left``, what that leaves of the newest step's after
        ``steps`` steps (to the oldest one, or to where least arrives); and ``verdict``:
        "vanishing" where less than a thousandth is left, "exploding" where it is more than a
        hundredfold, else "healthy".
    verdict_ : str
        The same in words, and what to change.
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import GradientFlowDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = DeepGRUForecaster(max_epochs=1, hidden_size=4, random_state=0).fit(df)
    >>> display = GradientFlowDisplay.from_estimator(fc)
    >>> display.summary.index.tolist()
    ['layer 1', 'layer 2']
    """

    title: str
    norms: pd.DataFrame
    summary: pd.DataFrame
    verdict_: str

    _mosaic = [["lags"]]
    _size = (9.0, 4.0)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        series: Any = None,
        member: int = 0,
        n_windows: int = 64,
    ) -> GradientFlowDisplay:
        """Measure the gradient of a fitted network."""
        check_int(cls.__name__, "n_windows", n_windows)
        windows = Windows(cls.__name__, estimator, X)
        network, watched = watch(windows.network(member))
        loss = windows.loss(network, windows.spread(n_windows, series))
        norms, summary = {}, {}
        for name, cell in watched.items():
            norm = _norms(loss, cell)[::-1]  # from the step that is read last
            found = torch.autograd.grad(
                loss, list(cell.cell.parameters()), retain_graph=True, allow_unused=True
            )
            size = math.sqrt(sum(float(g.square().sum()) for g in found if g is not None))
            norms[name] = norm[::-1] if cell.backward else norm
            summary[name] = {"gradient": size, **_fit(norm)}
        lags = windows.spec.segment * np.arange(len(norm))
        table = pd.DataFrame.from_dict(summary, orient="index").rename_axis("layer")
        parameters = windows.forecaster.get_params(deep=False)
        return cls(
            norms=pd.DataFrame(norms, index=pd.Index(lags, name="lag")),
            summary=table,
            verdict_=_words(table, len(lags), parameters, next(iter(watched.values())).innermost),
            title=windows.name,
        )

    def _draw_lags(self, ax: Any) -> None:
        for name, norm in self.norms.items():
            color = f"C{int(str(name).split()[1]) - 1}"
            style = {"color": color, "ls": "--" if "backward" in str(name) else "-", "lw": 1.6}
            label = f"{name}: {self.summary.loc[name, 'verdict']}"
            ax.plot(self.norms.index, norm.where(norm > 0), label=label, **style)
        ax.set_yscale("log")
        ax.margins(x=0.01)
        tidy(ax, self.title, "lag: rows back from the origin", "norm of ∂ loss / ∂ state")
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
        ax.legend(frameon=False, fontsize="small", ncols=3, **below)


def _norms(loss: torch.Tensor, cell: Watched) -> np.ndarray:
    """Norm of the gradient at each step's output and state, mean over windows: (steps,)."""
    # a tensor that is output and state counts once
    held = [
        list({id(t): t for t in (out, *state) if t.requires_grad}.values())
        for out, state in cell.steps
    ]
    flat = [t for each in held for t in each]
    grads = iter(torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True))
    squares = [
        torch.stack([next(grads).abs().square().flatten(1).sum(1) for _ in each]).sum(0)
        for each in held
    ]
    # the loss is a mean over windows
    return torch.stack(squares).sqrt().sum(1).double().cpu().numpy()


def _fit(norm: np.ndarray) -> dict[str, Any]:
    """Factor per step by least squares of logarithms, and what it leaves of the newest gradient."""
    # a layer below a bidirectional one learns from both ends: what counts is where least arrives
    most = int(norm.argmin()) if norm.min() < _LEFT * norm[0] else len(norm) - 1
    steps, seen = np.arange(most + 1), norm[: most + 1] > 0
    factor = 0.0 if most else 1.0
    if seen.sum() > 1:
        factor = float(np.exp(np.polyfit(steps[seen], np.log(norm[: most + 1][seen]), 1)[0]))
    left = factor**most
    word = "vanishing" if left < _LEFT else "exploding" if left > _GROWN else "healthy"
    return {"factor": factor, "steps": most, "left": left, "verdict": word}


def _words(summary: pd.DataFrame, n: int, parameters: dict[str, Any], cell: Any) -> str:
    """The verdict of each layer, and what to change."""
    lines = [
        f"{name}: {row['verdict']}. The gradient changes by a factor of {row['factor']:.3g} per "
        f"step: {row['steps']} steps back {row['left']:.2g} times as much arrives as at the newest."
        for name, row in summary.iterrows()
    ]
    for word in ("vanishing", "exploding"):
        if (summary["verdict"] == word).any():
            advice = "; ".join(_advice(word, n, parameters, cell))
            lines.append(f"Against {word} gradients: {advice}.")
    return "\n".join(lines)


def _advice(word: str, n: int, parameters: dict[str, Any], cell: Any) -> list[str]:
    """What to change, of the parameters that the estimator has and has not set."""
    gates = "a gated cell (cell='lstm' or 'gru')"
    # remembers about as long as the window (Tallec & Ollivier 2018, arXiv:1804.11188, eq. 16)
    bias = f"forget_bias={max(math.log(n), 1):.1f}"
    attention = "attention='dot', which reaches every step directly"
    table = [  # against what, the parameter, whether it would help, what to write
        ("both", "cell", isinstance(cell, RNNCell | IndRNNCell), gates),
        ("both", "orthogonal", bool(cell.recurrent_weights), "orthogonal=True"),
        ("exploding", "gradient_clip", True, "a smaller gradient_clip"),
        ("exploding", "lr", True, "a smaller lr"),
        ("exploding", "weight_decay", True, "some weight_decay"),
        ("vanishing", "forget_bias", cell.forget_gate is not None, bias),
        ("vanishing", "cell", not isinstance(cell, LRUCell), "cell='lru', a linear recurrence"),
        ("vanishing", "attention", parameters.get("attention") is None, attention),
        ("vanishing", "segment", True, "a larger segment, for fewer steps"),
    ]
    return [
        text
        for against, name, helps, text in table
        if against in ("both", word)
        and name in parameters
        and helps
        and parameters[name] is not True
    ]
