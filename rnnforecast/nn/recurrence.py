"""One recurrent layer as a function of its weights, also as an operator of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnforecast.nn._buffers import release_buffers
from rnnforecast.nn._kernels import run
from rnnforecast.nn.cells import FusedCell, GRUCell, LSTMCell, PeepholeLSTMCell, RNNCell

__all__ = ["recur", "release_buffers"]

_CELLS: dict[str, type[FusedCell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}


def recur(
    cell: str,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    peephole: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one recurrent layer over a sequence, in one direction.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
        Elman 1990 (tanh); Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000;
        Cho et al. 2014 with the reset gate after the recurrent product.
    x : Tensor of shape (batch, time, inputs)
    h0, c0 : Tensor of shape (batch, hidden), or None
        First state and first cell; None is zeros. ``c0`` is read by "lstm" alone.
    w_ih, w_hh : Tensor of shape (gates * hidden, inputs) and (gates * hidden, hidden)
        Gates in torch's order: i, f, g, o; r, z, n.
    b_ih, b_hh : Tensor of shape (gates * hidden,), or None
        Both or neither.
    peephole : Tensor of shape (3, hidden), or None
        "lstm" only: what input, forget and output gate see of the cell (Graves 2013, eq. 7 to 11).
    reverse : bool, default False
        Read from the last step to the first; outputs stay at their steps.

    Returns
    -------
    outputs : Tensor of shape (batch, time, hidden)
    h_n : Tensor of shape (batch, hidden)
        The state after the last step read.
    c_n : Tensor of shape (batch, hidden), or None
        The cell after the last step read; None but for "lstm".

    Raises
    ------
    ValueError
        If the cell is unknown or the sizes do not belong together.

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.nn.recurrence import recur
    >>> x = torch.ones(2, 5, 1)
    >>> outputs, h_n, _ = recur("rnn", x, None, None, torch.ones(3, 1), torch.zeros(3, 3))
    >>> bool(torch.allclose(outputs, torch.tanh(torch.ones(2, 5, 3))))
    True
    """
    if cell not in _CELLS:
        raise ValueError(f"recur: cell must be one of {sorted(_CELLS)}. Got {cell!r}")
    if x.ndim != 3:
        raise ValueError(f"recur: x must be (batch, time, inputs). Got shape {tuple(x.shape)}")
    if (b_ih is None) != (b_hh is None):
        raise ValueError("recur: give both biases or neither. Got one of b_ih and b_hh")
    if peephole is not None and cell != "lstm":
        raise ValueError(f'recur: peepholes belong to cell "lstm". Got cell {cell!r}')
    kind = _CELLS[cell] if peephole is None else PeepholeLSTMCell
    hidden, (batch, _, inputs) = w_hh.shape[-1], x.shape
    rows = kind.gates * hidden
    expected = {
        "w_ih": (w_ih, (rows, inputs)),
        "w_hh": (w_hh, (rows, hidden)),
        "b_ih": (b_ih, (rows,)),
        "b_hh": (b_hh, (rows,)),
        "peephole": (peephole, (3, hidden)),
        "h0": (h0, (batch, hidden)),
        "c0": (c0, (batch, hidden)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"recur: {name} must have shape {shape} for cell {cell!r}, {inputs} inputs, hidden "
                f"size {hidden} and batch {batch}. Got {tuple(tensor.shape)}"
            )
    state = (h0, c0)[: kind.n_states]
    outputs, last = run(kind, x, state, (w_ih, w_hh, b_ih, b_hh, peephole), (reverse,))
    return outputs, last[0], last[1] if kind.n_states == 2 else None


def _operator(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.rnnforecast.recur``: an operator cannot return None, so c_n may be empty."""
    outputs, h_n, c_n = recur(*args)
    return outputs, h_n, h_n.new_empty(0) if c_n is None else c_n


_OPERATOR = torch.library.Library("rnnforecast", "FRAGMENT")
_OPERATOR.define(
    "recur(str cell, Tensor x, Tensor? h0, Tensor? c0, Tensor w_ih, Tensor w_hh, "
    "Tensor? b_ih=None, Tensor? b_hh=None, Tensor? peephole=None, bool reverse=False) "
    "-> (Tensor, Tensor, Tensor)"
)
_OPERATOR.impl("recur", _operator, "CompositeImplicitAutograd")
