"""Corrupt what a forecast must not know, at every door, and expect the same bits."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast import DeepGRUForecaster, DeepLSTMForecaster
from rnnforecast.training import Learner

TINY = {
    "horizon": 3,
    "lookback": 6,
    "seasonality": 1,
    "hidden_size": 4,
    "n_layers": 1,
    "max_epochs": 2,
    "random_state": 0,
}
ROLES = {"target": ["y", "z"], "known": "x"}
N, CUT = 100, 70


def frame(seed=0):
    rng = np.random.default_rng(seed)
    steps = np.arange(N)[:, None]
    values = 5 + np.sin(steps / 3 + np.arange(4)) + 0.1 * rng.normal(size=(N, 4))
    index = pd.date_range("2024-01-01", periods=N, freq="h")
    return pd.DataFrame(values, index=index, columns=["y", "z", "x", "past"])


def panel():
    return pd.concat({"a": frame(0), "b": 3 * frame(1)}, names=["id", "time"])


def weights(fc):
    return {k: v.numpy().tobytes() for k, v in fc.network_.state_dict().items()}


def corrupt(df, rows, value=1e9, columns=("y", "z", "past")):
    out = df.copy()
    out[list(columns)] = out[list(columns)].astype(object if isinstance(value, str) else float)
    out.iloc[rows, [out.columns.get_loc(c) for c in columns]] = value
    return out


AHEAD = slice(CUT, None)


@pytest.mark.parametrize("value", [1e9, -np.inf, np.nan, "text"])
@pytest.mark.parametrize("quantiles", [None, (0.05, 0.95)])
def test_predict_does_not_look_at_targets_or_past_covariates_after_the_cutoff(value, quantiles):
    df = frame()
    fc = DeepGRUForecaster(**TINY, **ROLES, quantiles=quantiles).fit(df[:CUT])
    bad = corrupt(df, AHEAD, value)
    for method in (fc.predict, fc.predict_interval):
        np.testing.assert_array_equal(method(bad[CUT:]), method(df[CUT:]))
        np.testing.assert_array_equal(method(bad[CUT - 20 :]), method(df[CUT - 20 :]))
        np.testing.assert_array_equal(method(df[["x"]][CUT:]), method(df[CUT:]))
    np.testing.assert_array_equal(fc.forecast(bad[CUT:]), fc.forecast(df[CUT:]))


def test_in_sample_rows_are_forecast_from_the_history_not_from_x():
    df = frame()
    fc = DeepGRUForecaster(**TINY, **ROLES).fit(df[:CUT])
    bad = corrupt(df, slice(None))
    np.testing.assert_array_equal(fc.predict(bad[:CUT]), fc.predict(df[:CUT]))


def test_a_row_of_x_reads_its_own_covariates_only():
    df = frame()
    fc = DeepGRUForecaster(**TINY, **ROLES).fit(df[:CUT])
    whole = fc.predict(df[CUT:])
    for k in (0, 2, 11):
        bad = corrupt(df, slice(CUT + k + 1, None), columns=("x",))
        bad = corrupt(bad, slice(CUT, CUT + k), columns=("x",))
        np.testing.assert_allclose(fc.predict(bad[CUT:])[k], whole[k], rtol=1e-12)
        assert not np.allclose(fc.predict(corrupt(df, CUT + k, columns=("x",))[CUT:])[k], whole[k])


def test_rows_that_were_not_passed_are_not_seen():
    """A slice is a view of the frame that holds the future too."""
    df = frame()
    bad = corrupt(df, AHEAD, columns=("y", "z", "x", "past"))
    one = DeepGRUForecaster(**TINY, **ROLES).fit(df[:CUT])
    two = DeepGRUForecaster(**TINY, **ROLES).fit(bad[:CUT])
    assert weights(one) == weights(two)
    np.testing.assert_array_equal(
        one.forecast(df[["x"]][CUT:], quantiles=[0.1]),
        two.forecast(df[["x"]][CUT:], quantiles=[0.1]),
    )


@pytest.mark.parametrize("make", [frame, panel])
def test_no_weight_is_trained_on_validation_rows(make):
    """Units are measured on all rows of fit, so they are left out here (scaler=None)."""
    df = make()
    options = {**TINY, **ROLES, "scaler": None, "early_stopping": False, "loss": "mse"}
    held = 10  # the last tenth of each series' hundred rows
    last = df.groupby(level="id").tail(held).index if make is panel else df.index[-held:]
    bad = df.copy()
    bad.loc[last, ["y", "z"]] = 1e3 * np.random.default_rng(0).normal(size=(len(last), 2))
    assert weights(DeepGRUForecaster(**options).fit(df)) == weights(
        DeepGRUForecaster(**options).fit(bad)
    )
    # the row before them is trained on
    edge = df.groupby(level="id").tail(held + 1).index if make is panel else df.index[-held - 1 :]
    worse = bad.copy()
    worse.loc[edge.difference(last), ["y", "z"]] += 1.0
    assert weights(DeepGRUForecaster(**options).fit(bad)) != weights(
        DeepGRUForecaster(**options).fit(worse)
    )
    # with no share held out they all are
    options["validation_fraction"] = 0.0
    assert weights(DeepGRUForecaster(**options).fit(df)) != weights(
        DeepGRUForecaster(**options).fit(bad)
    )


def test_windows_of_training_end_before_those_of_validation_begin(monkeypatch):
    df = panel().drop(index=[("b", s) for s in frame().index[60:]])
    df["x"] = np.arange(160)  # names the row
    learners, fit = [], Learner.fit
    monkeypatch.setattr(Learner, "fit", lambda self, *a: learners.append(self) or fit(self, *a))
    fc = DeepGRUForecaster(**TINY, target=["y", "z"], known="x").fit(df)
    (learner,) = learners

    def origins_of(batches):
        ahead = np.concatenate([batch.inputs.future_known[:, 0, 0] for batch in batches])
        return np.sort(np.rint(ahead * fc.scale_.known_scale + fc.scale_.known_loc))

    rows = origins_of(learner.source.epoch(torch.Generator()))  # an epoch is one pass
    v_rows = origins_of(batch for batch, _ in learner.validation)
    for begin, n in ((0, 100), (100, 60)):
        cut = n - n // 10
        own, v_own = (x[(x >= begin) & (x < begin + n)] - begin for x in (rows, v_rows))
        assert own.min() == 6  # a whole look-back
        assert own.max() + 3 == cut  # the last forecast row is the last trained on
        assert v_own.min() == cut
        assert v_own.max() + 3 == n
        assert len(own) == own.max() - own.min() + 1


def test_partial_fit_trains_on_no_row_of_the_new_validation_part():
    df = frame()
    # the history then has 100 rows, of which the last ten validate
    bad = corrupt(df, slice(90, None), 50.0, columns=("y", "z"))
    fits = []
    for data in (df, bad):
        fc = DeepGRUForecaster(**TINY, **ROLES).fit(df[:CUT])
        fits.append(weights(fc.partial_fit(data[CUT:])))
    assert fits[0] == fits[1]


def test_update_tells_earlier_rows_nothing():
    df = frame()
    fc = DeepGRUForecaster(**TINY, **ROLES).fit(df[:CUT])
    bad = corrupt(df, slice(80, None), columns=("y", "z", "past"))
    one, two = copy.deepcopy(fc).update(df[CUT:]), copy.deepcopy(fc).update(bad[CUT:])
    # row 80 is the first corrupted one, and it is forecast from the rows before it
    np.testing.assert_array_equal(one.predict(df[:81]), two.predict(df[:81]))
    assert not np.array_equal(one.predict(df[81:82]), two.predict(df[81:82]))


def first_rows(panel, n):
    """The history of one series as it was after n rows."""
    parts = {name: getattr(panel, name)[:n] for name in ("targets", "past", "known")}
    return replace(panel, **parts, indptr=np.array([0, n]))


def test_calibration_errors_are_truths_less_forecasts_from_the_rows_before():
    df = frame()
    fc = DeepGRUForecaster(**TINY, **ROLES).fit(df)
    moved = copy.deepcopy(fc)
    scale = fc.scale_.target_scale[0]
    origins = range(90, 98)  # forecasts of three steps that lie in the last ten rows
    assert len(fc.conformal_.errors) == len(origins)
    for k, origin in enumerate(origins):
        moved.panel_ = first_rows(fc.panel_, origin)
        ahead = moved.forecast(df[["x"]][origin:])
        errors = (df[["y", "z"]][origin : origin + 3] - ahead) / scale
        np.testing.assert_allclose(fc.conformal_.errors[k], errors, atol=1e-4)


def test_one_series_does_not_see_the_future_of_another():
    """A global model, but a forecast of one series reads its own window only."""
    df = panel()
    fc = DeepLSTMForecaster(**TINY, **ROLES).fit(df.groupby(level="id").head(CUT))
    x = df[["x"]]
    before = fc.predict(x)
    other = df.loc[["b"]].iloc[CUT:]
    fc.update(corrupt(other, slice(None)))
    np.testing.assert_allclose(fc.predict(x)[:N], before[:N], rtol=1e-12)
