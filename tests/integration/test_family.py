"""The whole family behind its parameters: one search, streams, training options, attention."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from rnnforecast import DeepGRUForecaster, DeepRNNForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.nn import CELLS

QUICK = {"hidden_size": 4, "max_epochs": 1, "lookback": 12, "segment": 2, "random_state": 0}


@pytest.fixture(scope="module")
def load():
    t = np.arange(120)
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=120, freq="h")
    y = 10 + 3 * np.sin(t * np.pi / 12) + 0.1 * rng.normal(size=120)
    return pd.DataFrame({"load": y, "solar": np.maximum(np.sin(t * np.pi / 12), 0)}, index=index)


def test_every_cell_with_attention_and_depth_in_one_search(load):
    search = GridSearchCV(
        DeepRNNForecaster(horizon=3, **QUICK),
        {
            "cell": sorted(CELLS),
            "attention": [None, "multihead"],
            "n_layers": [1, 2],
            "decoder": ["direct", "recurrent"],
        },
        cv=TimeSeriesSplit(2, test_size=3),
        error_score="raise",
    ).fit(load)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == len(CELLS) * 8 and np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(scores)  # every one is another network


OPTIONS = [
    {"cell": "rnn", "activation": "relu"},
    {"cell": "indrnn", "activation": "tanh"},
    {"dilations": ((1, 2), (3,)), "residual": True},
    {"input_to_all": True, "n_layers": 3},
    {"output_from_all": "sum"},
    {"output_from_all": "supervised", "n_layers": 3},
    {"layer_norm": True},
    {"zoneout": 0.2},
    {"dropout": 0.3, "variational_dropout": True},
    {"orthogonal": True, "forget_bias": 1.0},
    {"clip_value": 0.1},
    {"max_norm": 0.5},
    {"l1": 0.01},
    {"optimizer": "sgd", "momentum": 0.5, "lr": 0.05},
    {"attention": "additive"},
    {"attention": "dot", "decoder": "recurrent", "bidirectional": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_changes_the_fit_and_keeps_the_contract(load, options):
    plain = {name: value for name, value in options.items() if name in ("cell", "optimizer", "lr")}
    plain |= {"dropout": options["dropout"]} if "dropout" in options else {}
    plain |= {"n_layers": options["n_layers"]} if "n_layers" in options else {}
    made = DeepRNNForecaster(horizon=3, **{**QUICK, "max_epochs": 2}, **options)
    fc = clone(made).fit(load[:100])
    again = clone(made).fit(load[:100])
    other = DeepRNNForecaster(horizon=3, **{**QUICK, "max_epochs": 2}, **plain).fit(load[:100])
    forecast = fc.forecast()
    pd.testing.assert_frame_equal(forecast, again.forecast())
    assert not np.allclose(forecast, other.forecast())
    # the rolled forecast is that of updates
    rolled = fc.rolling_forecast(load[100:105])
    pd.testing.assert_frame_equal(
        rolled.loc[load.index[101]], again.update(load[100:102]).forecast(), check_freq=False
    )
    # rows to come change nothing
    wrong = load[100:103].copy() * np.nan
    np.testing.assert_array_equal(fc.predict(wrong), fc.predict(load[100:103]))


def test_attention_weights_say_where_a_forecast_looks(load):
    fc = DeepGRUForecaster(horizon=3, attention="dot", **QUICK).fit(load)
    weights = fc.attention_weights()
    assert weights.index.equals(fc.forecast().index)
    assert weights.columns.names == ["target", "lag"]
    assert list(weights["load"].columns) == [10, 8, 6, 4, 2, 0]
    np.testing.assert_allclose(weights.T.groupby(level="target").sum(), 1)
    earlier = fc.attention_weights(history=load[:90])
    pd.testing.assert_frame_equal(earlier, clone(fc).fit(load).attention_weights(history=load[:90]))
    assert not np.allclose(earlier, weights)
    two = pd.concat({"a": load, "b": load + 1}, names=["series", "time"])
    panel = DeepGRUForecaster(horizon=3, attention="dot", channels="joint", **QUICK).fit(two)
    weights = panel.attention_weights()
    assert weights.shape == (6, 6) and weights.index.equals(panel.forecast().index)
    with pytest.raises(DataError, match="attention is None"):
        DeepGRUForecaster(horizon=3, **QUICK).fit(load).attention_weights()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "relu"}, "no choice of activation"),
        ({"attention": "cosine"}, "attention must be one of"),
        ({"decoder": "recurrent", "output_from_all": "supervised"}, "needs decoder='direct'"),
        ({"attention": "dot", "training": "dense"}, "training='dense'"),
        ({"dilations": 3}, "dilations must be blocks"),
        ({"zoneout": 1.0}, "zoneout must be"),
        ({"clip_value": 0}, "clip_value must be"),
        ({"cell": "perceptron"}, "cell must be one of"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_said_before_anything_is_fitted(load, options, words):
    fc = DeepRNNForecaster(horizon=3, **QUICK, **options)
    with pytest.raises(DataError, match=f"DeepRNNForecaster: .*{words}"):
        fc.fit(load)
    assert not [name for name in vars(fc) if name.endswith("_")]
