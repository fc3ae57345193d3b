"""How a network was trained, and how far its gradient reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from rnnforecast._validation import check_int
from rnnforecast.exceptions import DataError
from rnnforecast.inspection.display import Display, tidy
from rnnforecast.inspection.networks import read, unrolled, watch
from rnnforecast.metrics.wrappers import layers
from rnnforecast.nn import IndRNNCell, LRUCell
from rnnforecast.nn.cells import RNNCell

__all__ = ["GradientFlowDisplay", "TrainingCurveDisplay"]

_LEFT, _GROWN = 1e-3, 1e2  # of the newest step's gradient at the oldest: vanishing, exploding


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingCurveDisplay(Display):
    """Losses of all members by epoch, and the epoch whose weights were kept.

    Parts: ``"loss"``, ``"gradient"`` (norm of the gradient before clipping).

    Parameters
    ----------
    curves : DataFrame
        Indexed by (member, epoch), with columns ``train_loss``, ``val_loss`` (NaN without
        validation), ``grad_norm``, ``lr`` and ``seconds``.
    best_epochs : Series
        By member, from 1.
    title, loss : str
        Of the picture, and of its axis.

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

    curves: pd.DataFrame
    best_epochs: pd.Series
    title: str = ""
    loss: str = "loss"

    _mosaic = [["loss", "loss", "gradient"]]

    @classmethod
    def from_estimator(cls, estimator: Any) -> TrainingCurveDisplay:
        """Take the curves of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Any that trains networks, alone or in a Pipeline.

        Returns
        -------
        TrainingCurveDisplay

        Raises
        ------
        DataError
            If it has no training history.
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
        name = "loss" if getattr(model, "output_", None) is None else _loss_name(model)
        curves = pd.concat(frames, names=["member"])
        return cls(curves=curves, best_epochs=best, title=type(model).__name__, loss=name)

    def _draw_loss(self, ax: Any) -> None:
        for name, label, color in (
            ("train_loss", "training", "C0"),
            ("val_loss", "held out", "C1"),
        ):
            self._lines(ax, name, label, color)
        kept = "val_loss" if self.curves["val_loss"].notna().any() else "train_loss"
        best = [self.curves.loc[(m, e), kept] for m, e in self.best_epochs.items()]
        ax.plot(self.best_epochs, best, "k*", ms=9, zorder=3, label="weights kept")
        tidy(ax, self.title, "epoch", self.loss, legend=True)

    def _draw_gradient(self, ax: Any) -> None:
        self._lines(ax, "grad_norm", "", "C2")
        tidy(ax, "gradient of all weights", "epoch", "norm, before clipping")

    def _lines(self, ax: Any, name: str, label: str, color: str) -> None:
        if self.curves[name].isna().all():
            return
        style: dict[str, Any] = {"color": color, "lw": 1.4, "marker": ".", "ms": 4}
        for member, curve in self.curves[name].groupby(level=0):
            epochs = curve.index.get_level_values(1)
            ax.plot(epochs, curve, label="_" if member else label, alpha=0.85, **style)
        ax.xaxis.get_major_locator().set_params(integer=True)


def _loss_name(model: Any) -> str:
    given = getattr(model, "quantiles", None) is None and getattr(model, "output", None) is None
    name = model.loss if given else type(model.output_).__name__
    return f"loss ({name}, in units of the series)"


@dataclass(kw_only=True, eq=False, repr=False)
class GradientFlowDisplay(Display):
    """How far back the gradient of the loss reaches in each layer, and a verdict in words.

    A recurrent layer learns from a step k rows back only as much as the gradient of the loss that
    arrives at its hidden state of that step, which is a product of k Jacobians (Pascanu et al.
    2013, arXiv:1211.5063, eq. 5). Its norm is measured at every step of the look-back, and a
    factor per step fitted to it. Works for every cell, in both directions; where a layer's output
    is no part of its state, the norm is that of both.

    Parts: ``"lags"``, ``"weights"``.

    Parameters
    ----------
    norms : DataFrame
        Norm of the gradient of a window's loss with respect to the hidden state, mean over windows;
        indexed by ``lag`` in rows back from the origin, one column for each layer and direction.
    weights : DataFrame
        By layer: ``gradient`` and ``weight``, the norms of both.
    summary : DataFrame
        By layer: ``factor`` of the norm for each step in the direction of reading, ``left``, what
        that leaves of the newest step's after ``steps`` steps (to the oldest one, or to where least
        arrives), and ``verdict``: "vanishing" where less than a thousandth is left, "exploding"
        where it is more than a hundredfold, else "healthy".
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

    norms: pd.DataFrame
    weights: pd.DataFrame
    summary: pd.DataFrame
    verdict_: str
    title: str = ""

    _mosaic = [["lags", "lags", "weights"]]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        series: Any = None,
        member: int = 0,
        n_windows: int = 64,
    ) -> GradientFlowDisplay:
        """Measure the gradient of a fitted network.

        Parameters
        ----------
        estimator : DeepRNNForecaster, SegmentRNNForecaster, SequenceRegressor, SequenceClassifier
            Fitted, alone or in a Pipeline.
        X, y : optional
            Rows to look at instead of the history, as ``forecast(history=)`` takes them. For a
            sequence estimator sequences and their answers, needed.
        series : hashable, optional
            Windows of this series alone (for a sequence estimator, this row of X).
        member : int, default 0
            Which of several networks.
        n_windows : int, default 64
            Windows, spread over the history, or sequences at most.

        Returns
        -------
        GradientFlowDisplay

        Raises
        ------
        DataError
            If the estimator has no such network, or no window has a truth.
        """
        check_int(cls.__name__, "n_windows", n_windows)
        subject = read(cls.__name__, estimator, X)
        network, watched = watch(subject.network(member).eval())
        batch = subject.spread(n_windows, series, y)
        loss = subject.loss(network, batch)
        named = unrolled(watched)
        norms, weights, summary = {}, {}, {}
        for name, (cell, backward) in named.items():
            held = [
                {id(t): t for t in (out, *state) if t.requires_grad}.values()
                for out, state in cell.steps
            ]
            of_state = torch.autograd.grad(
                loss, [t for each in held for t in each], retain_graph=True, allow_unused=True
            )
            norm = _norms(held, of_state)
            by_distance = _by_distance(norm * len(norm), subject.lengths(batch))
            parameters = list(cell.parameters())
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            size = [
                sum(float(t.detach().square().sum()) for t in tensors if t is not None)
                for tensors in (found, parameters)
            ]
            norms[name] = by_distance[::-1] if backward else by_distance
            weights[name] = dict(zip(("gradient", "weight"), np.sqrt(size)))
            summary[name] = _fit(by_distance)
        n = len(next(iter(norms.values())))
        lags = pd.RangeIndex(0, n * subject.segment, subject.segment, name="lag")
        table = pd.DataFrame.from_dict(summary, orient="index").rename_axis("layer")
        return cls(
            norms=pd.DataFrame(norms, index=lags),
            weights=pd.DataFrame(weights).T.rename_axis("layer"),
            summary=table,
            verdict_=_words(table, n, subject, watched[0][0].innermost),
            title=subject.name,
        )

    def _draw_lags(self, ax: Any) -> None:
        for name, norm in self.norms.items():
            style = {"color": _color(name), "ls": "--" if "backward" in name else "-", "lw": 1.6}
            label = f"{name}: {self.summary.loc[name, 'verdict']}"
            ax.plot(self.norms.index, norm.where(norm > 0), label=label, **style)
        ax.set_yscale("log")
        ax.margins(x=0.01)
        tidy(ax, self.title, "lag: rows back from the origin", "norm of ∂ loss / ∂ state")
        columns = 2 if len(self.norms.columns) > 3 else 3
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
        ax.legend(frameon=False, fontsize="small", ncols=columns, **below)

    def _draw_weights(self, ax: Any) -> None:
        share = self.weights["gradient"] / self.weights["weight"]
        y = np.arange(len(share))
        bars = ax.barh(y, share, color=[_color(name) for name in share.index], height=0.6)
        for name, bar in zip(share.index, bars):
            bar.set_alpha(0.5 if "backward" in name else 1.0)
        ax.set_yticks(y, share.index)
        ax.set_ylim(max(len(share), 3) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=3)
        tidy(ax, "weights", "norm of ∂ loss / ∂ weights\n/ norm of weights", "")
        ax.grid(axis="y", visible=False)


def _color(name: Any) -> str:
    return f"C{int(name.split()[1]) - 1}"


def _norms(held: list[Any], grads: Any) -> np.ndarray:
    """Norm of each step's gradient by row: (rows, steps), in the order of reading."""
    grads, found = iter(grads), []
    for tensors in held:
        given = [(tensor, next(grads)) for tensor in tensors]
        own = [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in given]
        found.append(torch.stack([part.square().flatten(1).sum(1) for part in own]).sum(0))
    return torch.stack(found, 1).sqrt().double().cpu().numpy()


def _by_distance(norm: np.ndarray, lengths: Any) -> np.ndarray:
    """Mean norm at each step back from the one that is read last."""
    if lengths is None:
        return norm.mean(0)[::-1]
    lengths = lengths.cpu().numpy()
    at = lengths[:, None] - 1 - np.arange(lengths.max())
    rows = np.where(at >= 0, np.take_along_axis(norm, np.maximum(at, 0), 1), np.nan)
    return np.nanmean(rows, 0)


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


def _words(summary: pd.DataFrame, n: int, subject: Any, cell: Any) -> str:
    """The verdict of each layer, and what to change."""
    lines = []
    for name, row in summary.iterrows():
        factor, left, steps = row["factor"], row["left"], row["steps"]
        far = f"{100 * left:.2g} % of it is left {steps} steps back"
        if row["verdict"] == "vanishing":
            few = math.ceil(math.log(0.01) / math.log(factor)) if 0 < factor < 1 else 1
            far = f"less than 1 % of it is left {few} of {n - 1} steps back"
        elif left > 1:
            far = f"it is {left:.2g} times as large {steps} steps back"
        lines.append(
            f"{name}: {row['verdict']}. The gradient changes by a factor of {factor:.3g} per step: "
            f"{far}."
        )
    verdicts = set(summary["verdict"])
    for word in ("vanishing", "exploding"):
        if word in verdicts:
            lines.append(
                f"Against {word} gradients: " + "; ".join(_advice(word, n, subject, cell)) + "."
            )
    return "\n".join(lines)


def _advice(word: str, n: int, subject: Any, cell: Any) -> list[str]:
    """What to change, of the parameters that the estimator has and has not set."""
    parameters = subject.forecaster.get_params(deep=False)
    advice = []
    if isinstance(cell, RNNCell | IndRNNCell):
        advice.append("a gated cell (cell='lstm' or 'gru')")
    if parameters.get("orthogonal") is False and cell.recurrent_weights:
        advice.append("orthogonal=True")
    if word == "exploding":
        clip = parameters["gradient_clip"]
        now = "" if clip is None else f" (now {clip:g})"
        return [*advice, f"a smaller gradient_clip{now}", "a smaller lr", "some weight_decay"]
    if cell.forget_gate is not None and "forget_bias" in parameters:
        # remembers about as long as the window (Tallec & Ollivier 2018, arXiv:1804.11188, eq. 16)
        advice.append(f"forget_bias={max(math.log(n), 1):.1f}")
    if "cell" in parameters and not isinstance(cell, LRUCell):
        advice.append("a linear recurrence (cell='lru')")
    if parameters.get("attention", 0) is None:
        advice.append("attention='dot', which reaches every step directly")
    if "segment" in parameters:
        advice.append("a larger segment, for fewer steps")
    return advice
