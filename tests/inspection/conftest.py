"""A few quickly fitted forecasters that the tests of displays share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rnnforecast import DeepRNNForecaster

QUICK = {"hidden_size": 5, "max_epochs": 1, "lookback": 24, "segment": 1, "random_state": 0}


def rows(n=150, seed=0):
    """Two targets, a past, two known and a static covariate, one of them a category."""
    rng, t = np.random.default_rng(seed), np.arange(n)
    frame = pd.DataFrame(
        {
            "load": 10 + np.sin(t * np.pi / 6) + 0.3 * rng.normal(size=n),
            "wind": 3 + np.cos(t * np.pi / 6) + 0.3 * rng.normal(size=n),
            "rain": rng.normal(size=n),
            "price": rng.normal(size=n),
            "shift": np.array(["day", "late", "night"])[rng.integers(3, size=n)],
            "size": float(seed),
        },
        index=pd.date_range("2024-03-01", periods=n, freq="h", name="time"),
    )
    frame.loc[frame.index[[n // 3, n - 4]], "load"] = np.nan
    return frame


@pytest.fixture(scope="session")
def panel():
    """Three series, one shorter than the look-back."""
    parts = {"A": rows(150), "B": rows(150, seed=1), "C": rows(18, seed=2)}
    return pd.concat(parts, names=["site"])


@pytest.fixture(scope="session")
def single():
    return rows()[["load"]].interpolate()


@pytest.fixture(scope="session")
def quick():
    """Parameters that train in no time."""
    return dict(QUICK)


@pytest.fixture(scope="session")
def fit(single):
    """A function that fits one layer to one series, with parameters."""

    def fitted(**parameters):
        options = {"horizon": 3, "n_layers": 1, "seasonality": 1, **QUICK, **parameters}
        return DeepRNNForecaster(**options).fit(single)

    return fitted


@pytest.fixture(scope="session")
def fitted(panel):
    """Every role, several members and targets, attention; without the last rows of each series."""
    roles = {"target": ["load", "wind"], "known": ["price", "shift"], "static": "size"}
    model = DeepRNNForecaster(
        horizon=4, cell="lstm", n_members=2, attention="dot", **roles, **QUICK
    )
    return model.fit(panel.groupby(level=0).head(140))


@pytest.fixture(scope="session")
def one(single):
    """One series, one target."""
    return DeepRNNForecaster(horizon=4, cell="gru", n_layers=1, **QUICK).fit(single[:130])
