"""A grid search whose fits share the reading of the data."""

from __future__ import annotations

from typing import Any

from joblib import effective_n_jobs, parallel_config
from sklearn.model_selection import GridSearchCV

from rnnforecast.forecasters.sharing import sharing
from rnnforecast.training import allowed_threads, at_most_threads

__all__ = ["SharedGridSearchCV"]


class SharedGridSearchCV(GridSearchCV):
    """scikit-learn's ``GridSearchCV`` with the same results, for many cheap forecasters.

    Candidates that differ in what does not concern the data (learning rate, dropout, weight decay,
    hidden size, seed) share, fold by fold, the rows read and checked, the windows, the scales and
    the scaled rows; others share what they have in common. Fits are spread over ``n_jobs`` threads
    instead of processes, so that no process has to import torch first. Torch's threads are divided
    among them and restored afterwards. What is shared is kept until the search ends: the rows of
    every fold.

    The scores are the same bits as ``GridSearchCV`` gives with the same number of threads for each
    fit (sums over another number of threads may differ in the last bits; small networks use one).

    Parameters
    ----------
    estimator, param_grid, scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, \
return_train_score
        As of ``sklearn.model_selection.GridSearchCV``.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from sklearn.model_selection import TimeSeriesSplit
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.model_selection import SharedGridSearchCV
    >>> index = pd.date_range("2024-01-01", periods=90, freq="D")
    >>> df = pd.DataFrame({"y": np.sin(np.arange(90) * 2 * np.pi / 7)}, index=index)
    >>> fc = DeepGRUForecaster(horizon=7, hidden_size=4, max_epochs=1, random_state=0)
    >>> cv = TimeSeriesSplit(n_splits=2, test_size=7)
    >>> search = SharedGridSearchCV(fc, {"lr": [1e-3, 1e-2]}, cv=cv).fit(df)
    >>> len(search.cv_results_["mean_test_score"])
    2
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> SharedGridSearchCV:
        """Fit every candidate on every fold, as ``GridSearchCV.fit`` does with these arguments."""
        with sharing(), parallel_config(backend="threading"):
            each = max(allowed_threads() // effective_n_jobs(self.n_jobs), 1)
            with at_most_threads(each, everywhere=True):
                return super().fit(X, y, **params)
