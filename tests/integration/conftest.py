"""Real data cut small, tiny forecasters, and cross-validation written out as a loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from rnnforecast import DeepLSTMForecaster
from rnnforecast.datasets import (
    load_co2,
    load_nyc_weather,
    load_seattle_weather,
    load_sp500,
    load_sunspots,
)

COVARIATES = ["temp_min", "precipitation", "wind"]


@pytest.fixture(scope="session")
def seattle() -> pd.DataFrame:
    """330 days, with the words of column ``weather``."""
    return load_seattle_weather().iloc[:330]


@pytest.fixture(scope="session")
def day(seattle) -> tuple[pd.DataFrame, pd.Series]:
    """Covariates and target in scikit-learn's way: the warmest hour from the other readings."""
    return seattle[COVARIATES], seattle["temp_max"]


@pytest.fixture(scope="session")
def sunspots() -> pd.DataFrame:
    """309 years with a cycle of about 11: the last value is a poor forecast of the next cycle."""
    return load_sunspots()


@pytest.fixture(scope="session")
def sp500() -> pd.DataFrame:
    """260 trading days: weekends and holidays are not rows."""
    return load_sp500().iloc[-260:][["close"]]


@pytest.fixture(scope="session")
def co2() -> pd.DataFrame:
    """260 weeks, the first years, with missing values."""
    frame = load_co2().iloc[:260]
    assert frame["co2"].isna().sum() > 10
    return frame


def _stations(start: str, end: str) -> pd.DataFrame:
    frame = load_nyc_weather().loc[["EWR", "JFK"], ["temp", "dewp"]]
    time = frame.index.get_level_values("time")
    return frame[(time >= start) & (time < end)]


@pytest.fixture(scope="session")
def stations() -> pd.DataFrame:
    """Two weeks of July at two airports; EWR lacks two hours."""
    return _stations("2013-07-01", "2013-07-15")


@pytest.fixture(scope="session")
def gappy_stations() -> pd.DataFrame:
    """Seventeen days of autumn in which both airports lack the same nights' hours."""
    return _stations("2013-10-20", "2013-11-06")


@pytest.fixture
def lstm():
    """A tiny network; the arguments override."""

    def make(kind=DeepLSTMForecaster, **params):
        tiny = {"hidden_size": 8, "n_layers": 1, "max_epochs": 2, "random_state": 0, "lr": 1e-2}
        tiny["batch_size"] = 64
        return kind(**{**tiny, **params})

    return make


@pytest.fixture
def by_hand():
    """Test scores of a cross-validation as a plain loop over the folds."""

    def scores(estimator, X, y, cv, score=None, params=None):
        out = []
        for train, test in cv.split(X):
            model = clone(estimator).set_params(**(params or {}))
            if y is None:
                model.fit(X.iloc[train])
            else:
                model.fit(X.iloc[train], y.iloc[train])
            test_y = None if y is None else y.iloc[test]
            scorer = score or (lambda model, X, y: model.score(X, y))
            out.append(scorer(model, X.iloc[test], test_y))
        return np.array(out)

    return scores
