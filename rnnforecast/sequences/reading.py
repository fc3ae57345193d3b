"""Sequences as users have them, as padded tensors with lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnforecast.exceptions import DataError

__all__ = ["SequenceBatch", "SequenceSource", "as_sequences", "padded"]


def as_sequences(owner: str, X: Any) -> list[np.ndarray] | None:
    """The rows of X, each (time, features), where it is a 3-D array or holds sequences of several
    lengths; None for a 2-D array or table, each row of which has as many numbers.
    """
    if hasattr(X, "iloc") and X.ndim == 2 and X.shape[1] == 1 and X.dtypes.iloc[0] == "object":
        X = X.iloc[:, 0]  # a table of sequences
    if getattr(X, "ndim", 1) == 2 or hasattr(X, "columns"):
        return None
    if getattr(X, "ndim", 1) == 1 and not isinstance(X, (list, tuple)):
        if getattr(X, "dtype", None) != np.dtype(object):
            return None  # scikit-learn says what is wrong with it
    rows = list(X)
    if not rows or not all(hasattr(row, "__len__") and not isinstance(row, str) for row in rows):
        return None
    found = []
    for k, row in enumerate(rows):
        try:
            found.append(np.asarray(row, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DataError(f"{owner}: sequence {k} must hold numbers: {error}") from error
    dims = {row.ndim for row in found}
    if dims == {1} and len({len(row) for row in found}) == 1:
        return None
    if len(dims) > 1 or not dims <= {1, 2}:
        raise DataError(
            f"{owner}: every sequence must be 1-D (time,) or 2-D (time, features), all alike. Got "
            f"{sorted(dims)} dimensions"
        )
    found = [row[:, None] if row.ndim == 1 else row for row in found]
    widths = sorted({row.shape[1] for row in found})
    if len(widths) > 1:
        raise DataError(f"{owner}: sequences must have one number of features. Got {widths}")
    for k, row in enumerate(found):
        if not len(row) or not widths[0]:
            raise DataError(f"{owner}: sequence {k} is empty: leave it out")
        if not np.isfinite(row).all():
            raise DataError(
                f"{owner}: sequence {k} holds NaN or infinity: fill or drop these steps before"
            )
    return found


def padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (time, features) side by side, zero after their end: (n, longest, features), lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    x = np.zeros((len(rows), lengths.max(), rows[0].shape[1]))
    x[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(rows)
    return x, lengths


class SequenceBatch(NamedTuple):
    """Some sequences and what is known of them."""

    x: Tensor  # (batch, time, features), or tokens (batch, time)
    lengths: Tensor | None  # (batch,); None where all have all steps
    truth: Tensor  # (batch, outputs), or codes of classes (batch,)


@dataclass(eq=False)
class SequenceSource:
    """Random batches of sequences, each as long as its longest."""

    x: Tensor
    lengths: Tensor
    truth: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[SequenceBatch]:
        order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
        for rows in order.split(self.batch_size):
            yield self.take(rows)

    def take(self, rows: Tensor) -> SequenceBatch:
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        all_long = bool((lengths == longest).all())
        x = self.x[rows, :longest]
        return SequenceBatch(x, None if all_long else lengths, self.truth[rows])

    def some(self, rows: Tensor) -> SequenceSource:
        """The source of some sequences alone."""
        parts = {name: getattr(self, name)[rows] for name in ("x", "lengths", "truth")}
        return replace(self, **parts)
