"""The Diebold-Mariano test of equal forecast accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rnnforecast._validation import check_choice, check_int
from rnnforecast.exceptions import DataError

__all__ = ["DieboldMariano", "diebold_mariano", "dm_of_losses"]

_LOSSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "absolute": np.abs,
    "squared": np.square,
    "identity": lambda losses: losses,
}


class DieboldMariano(NamedTuple):
    """Result of the test: a statistic, negative where the first forecast is better, and a p-value.

    Attributes
    ----------
    statistic, pvalue : float
        The p-value is two-sided.
    """

    statistic: float
    pvalue: float


def diebold_mariano(
    e1: Any,
    e2: Any,
    h: int = 1,
    *,
    loss: str | Callable[[np.ndarray], np.ndarray] = "absolute",
    variance: str = "rectangular",
) -> DieboldMariano:
    """Test whether two forecasts of the same data are equally accurate.

    Parameters
    ----------
    e1, e2 : array-like, shape (n,)
        Forecast errors of the two, one for each time, in order of time, all for the same horizon.
        Pairs with a NaN do not count.
    h : int, default=1
        Horizon of the forecasts: optimal h-step errors are autocorrelated up to lag h - 1.
    loss : {"absolute", "squared", "identity"} or callable, default="absolute"
        What is compared: ``|e|``, ``e ** 2``, ``e`` itself where it is a loss already, or a
        function of the errors.
    variance : {"rectangular", "bartlett"}, default="rectangular"
        Long-run variance of the loss differential: its autocovariances up to lag h - 1, summed
        with equal weights, or with weights that fall linearly to zero at lag h.

    Returns
    -------
    DieboldMariano
        ``(statistic, pvalue)``. (0, 1) for identical losses; NaN for a differential that is
        constant but not zero, whose variance is unknown.

    Raises
    ------
    DataError
        If lengths differ, or there are no more than ``max(h, 1)`` pairs.

    Notes
    -----
    With ``d[t] = L(e1[t]) - L(e2[t])`` of mean ``m`` over n times and autocovariances
    ``g[k] = sum((d[t] - m) (d[t-k] - m)) / n``, the long-run variance of ``m`` is
    ``V = (g[0] + 2 (g[1] + ... + g[h-1])) / n`` (S1 of Diebold & Mariano 1995, "Comparing
    predictive accuracy", section 1.1, with the rectangular window they argue for). The statistic is
    ``m / sqrt(V) * sqrt((n + 1 - 2 h + h (h - 1) / n) / n)``, compared with Student's t with n - 1
    degrees of freedom (Harvey, Leybourne & Newbold 1997, "Testing the equality of prediction mean
    squared errors", their S1*). The rectangular sum can come out negative in short samples;
    Bartlett's weights (Newey & West 1987), which cannot, are used then.

    The test assumes that d is covariance stationary: errors of different horizons must not be
    strung together, as losses grow with the horizon. `compare` therefore tests the mean over all
    steps and series of each origin.

    Examples
    --------
    >>> e1 = [0.5, -0.2, 0.3, 0.1, -0.4, 0.2]
    >>> e2 = [1.0, -0.9, 0.8, 0.2, -1.2, 0.9]
    >>> result = diebold_mariano(e1, e2)
    >>> round(result.statistic, 3), round(result.pvalue, 4)
    (-5.367, 0.003)
    """
    check_int("diebold_mariano", "h", h)
    check_choice("diebold_mariano", "variance", variance, ("rectangular", "bartlett"))
    if not callable(loss):
        check_choice("diebold_mariano", "loss", loss, _LOSSES)
        loss = _LOSSES[loss]
    first, second = (np.asarray(errors, dtype=np.float64) for errors in (e1, e2))
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(
            f"diebold_mariano: e1 and e2 must be 1-D and equally long. Got shapes {first.shape} "
            f"and {second.shape}"
        )
    losses = np.column_stack([loss(first), loss(second)]).astype(np.float64)
    losses = losses[~np.isnan(losses).any(axis=1)]
    if len(losses) <= max(h, 1):
        raise DataError(
            f"diebold_mariano: {len(losses)} pairs of errors are too few for h={h}, which needs at "
            f"least {max(h, 1) + 1}"
        )
    return dm_of_losses(losses, h, variance)


def dm_of_losses(losses: np.ndarray, h: int, variance: str = "rectangular") -> DieboldMariano:
    """The test on losses of shape (n, 2), without NaN and with n > h."""
    n = len(losses)
    differential = losses[:, 0] - losses[:, 1]
    mean = float(differential.mean())
    centred = differential - mean
    rounding = 8 * np.finfo(np.float64).eps * np.abs(losses).max()
    if np.abs(differential).max() <= rounding:
        return DieboldMariano(0.0, 1.0)
    if np.abs(centred).max() <= rounding:
        return DieboldMariano(float("nan"), float("nan"))
    covariance = np.array([centred[k:] @ centred[: n - k] for k in range(h)]) / n
    covariance[1:] *= 2  # of lags before and after
    total, falling = covariance.sum(), (1.0 - np.arange(h) / h) @ covariance
    total = falling if variance == "bartlett" or total <= 0 else total
    # S1* of Harvey, Leybourne & Newbold 1997
    correction = np.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    statistic = float(correction * mean / np.sqrt(total / n))
    from scipy.stats import t

    return DieboldMariano(statistic, float(2 * t.sf(abs(statistic), df=n - 1)))
