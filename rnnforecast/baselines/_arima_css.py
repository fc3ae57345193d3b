"""Conditional sum of squares of a regression with ARMA errors: quick, and a start for the rest.

Box, Jenkins, Reinsel & Ljung (2015), Time Series Analysis, 5th ed., section 7.1.2: innovations
before the first row are taken as 0, and the first rows, whose AR terms reach before it, are left
out. Missing rows cut a series into stretches, each of which is treated so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

from rnnforecast.baselines._arima_space import polynomial

__all__ = ["conditional_fit"]


def conditional_fit(
    y: np.ndarray, x: np.ndarray, lags: tuple[int, int, int, int], m: int, model: Any, maxiter: int
) -> tuple[np.ndarray, float, bool] | None:
    """Least squares over stationary and invertible ARMA terms.

    Parameters
    ----------
    y : ndarray, shape (n_rows,)
        Differenced; NaN where missing.
    x : ndarray, shape (n_rows, n_columns)
        Regressors, differenced alike.
    lags : tuple of int
        Numbers of ar, ma, seasonal ar and seasonal ma terms.
    m : int
        Steps in a season.
    model : SARIMAX
        statsmodels' model of y and x, for its map onto stationary and invertible terms.
    maxiter : int

    Returns
    -------
    params : ndarray, shape (n_columns + n_terms,)
        Regression and ARMA coefficients, as statsmodels orders them.
    scale : float
        Mean square of the innovations.
    converged : bool
        All of them None where missing values leave less than half of the rows.
    """
    k, cuts = x.shape[1], np.cumsum(lags)[:-1]
    skip = lags[0] + m * lags[2]
    columns = np.column_stack([y, x])
    breaks = np.flatnonzero(np.isnan(y))
    pieces = [piece[~np.isnan(piece[:, 0])] for piece in np.split(columns, breaks)]
    pieces = [piece for piece in pieces if len(piece) > skip]
    if sum(len(piece) - skip for piece in pieces) < max(0.5 * len(y), sum(lags) + k + 1):
        return None

    def terms(free: np.ndarray) -> np.ndarray:
        return np.asarray(model.transform_params(np.concatenate([np.zeros(k), free])))[k:]

    def solve(free: np.ndarray) -> tuple[np.ndarray, float]:
        ar, ma, seasonal_ar, seasonal_ma = np.split(terms(free), cuts)
        top = np.convolve(polynomial(-ar, 1), polynomial(-seasonal_ar, m))
        bottom = np.convolve(polynomial(ma, 1), polynomial(seasonal_ma, m))
        errors = np.vstack([lfilter(top, bottom, piece, axis=0)[skip:] for piece in pieces])
        # the innovations are linear in the regression coefficients
        beta = np.linalg.lstsq(errors[:, 1:], errors[:, 0], rcond=None)[0]
        return beta, float(np.mean((errors[:, 0] - errors[:, 1:] @ beta) ** 2))

    def loss(free: np.ndarray) -> float:
        return 0.5 * float(np.log(max(solve(free)[1], 1e-300)))

    start = np.full(sum(lags), 0.1)
    found = minimize(loss, start, method="L-BFGS-B", options={"maxiter": maxiter})
    beta, scale = solve(found.x)
    return np.concatenate([beta, terms(found.x)]), scale, bool(found.success)
