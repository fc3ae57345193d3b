"""SegmentRNNForecaster: its rules, its roles, and that it learns what it is for."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from rnnforecast import SegmentRNNForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.segment import choose_long_lookback, choose_long_segment

TINY = {
    "horizon": 5,
    "lookback": 12,
    "segment": 4,
    "hidden_size": 6,
    "max_epochs": 2,
    "random_state": 0,
}


def tiny(**options):
    return SegmentRNNForecaster(**{**TINY, **options})


def wave(n=120, columns=("y",), noise=0.1, seed=0, period=12):
    rng = np.random.default_rng(seed)
    steps = np.arange(n)[:, None]
    phase = 2 * np.pi * steps / period + np.arange(len(columns))
    values = 5 + np.sin(phase) + noise * rng.normal(size=(n, len(columns)))
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    return pd.DataFrame(values, index=index, columns=list(columns))


def weights(fc):
    return {k: v.numpy().tobytes() for k, v in fc.network_.state_dict().items()}


# -- automatic choices -----------------------------------------------------------------------------


@pytest.mark.parametrize("season", [1, 2, 4, 7, 12, 24, 48, 52, 96, 144, 168, 365])
@pytest.mark.parametrize("typical", [3, 20, 60, 300, 1000, 20_000])
@pytest.mark.parametrize("horizon", [1, 13, 96])
def test_rules_against_their_description(season, typical, horizon):
    panel = SimpleNamespace(lengths=np.array([1, typical, 10 * typical]))
    lookback = choose_long_lookback(panel, horizon, season)
    seasons = 30 * season if season > 1 else 0
    wanted = min(max(seasons, 2 * horizon, 24), 720)
    assert lookback == max(min(wanted, (typical - horizon) // 2), 1)
    segment = choose_long_segment(season, lookback)
    assert 1 <= segment <= lookback
    if season == 1:
        assert segment == min(max(lookback // 8, 1), 48)
    else:
        whole = [n for n in range(1, 49) if season % n == 0]
        assert segment == max(n for n in whole if n == 1 or 4 * n <= lookback)


def test_choices_are_fitted_attributes_and_told():
    fc = tiny(lookback=None, segment=None).fit(wave(400))
    assert (fc.lookback_, fc.seasonality_, fc.segment_) == (197, 24, 24)
    assert "lookback=197" in repr(fc)
    assert not fc.network_.spec.pull
    fc = tiny(lookback=None, segment=None, seasonality=1).fit(wave(400))
    assert (fc.lookback_, fc.segment_) == (24, 3)
    assert fc.network_.spec.pull  # the forecast starts between last value and mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 13}, "segment must be at most the look-back, 12. Got 13"),
        ({"segment": 0}, "segment"),
        ({"cell": "transformer"}, "cell"),
        ({"scaler": "minmax"}, "scaler"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"horizon": 120}, "need at least 121: use a smaller horizon"),
    ],
)
def test_bad_parameters_say_what_to_do(options, message):
    fc = tiny(**options)
    with pytest.raises(DataError, match=message):
        fc.fit(wave())
    assert not fc.__sklearn_is_fitted__()


# -- randomness, pickles, training further ---------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_same_seed_same_bits_and_pickles_keep_them(cell):
    df = wave(columns=("y", "z"))
    first = tiny(cell=cell).fit(df)
    again = clone(first).fit(df)
    other = clone(first).set_params(random_state=1).fit(df)
    assert weights(first) == weights(again)
    assert weights(first) != weights(other)
    loaded = pickle.loads(pickle.dumps(first))  # noqa: S301
    for fc in (again, loaded):
        np.testing.assert_array_equal(first.forecast(horizon=13), fc.forecast(horizon=13))
    assert repr(loaded) == repr(first)


def test_both_doors_agree_and_rolling_on_feeds_back_the_forecast():
    df = wave(150, ("y", "z"))
    fc = tiny().fit(df[:120])
    ahead = fc.forecast(horizon=13)
    np.testing.assert_allclose(fc.predict(df[120:133]), ahead, rtol=1e-12)
    np.testing.assert_allclose(ahead[:5], fc.forecast(), rtol=1e-12)
    fc.update(ahead[:5])
    np.testing.assert_allclose(fc.forecast(), ahead[5:10], rtol=1e-9)


def test_warm_start_and_partial_fit_go_on_from_the_weights():
    df = wave(150)
    fc = tiny(warm_start=True, lr=1e-9, gradient_clip=None).fit(df[:120])
    before = {k: v.clone() for k, v in fc.network_.state_dict().items()}
    fc.set_params(random_state=5).fit(df[:120])
    fc.partial_fit(df[120:])
    for name, value in fc.network_.state_dict().items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)
    with pytest.raises(DataError, match="warm_start needs the same architecture"):
        fc.set_params(segment=3).fit(df)


# -- what it learns --------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("scaler", ["last", "window"])
def test_it_learns_a_wave(cell, scaler):
    """Two targets of other units and phases. The last season as a forecast errs by sqrt(2) times
    the noise, the mean by five times.
    """
    df = wave(500, ("a", "b"), noise=0.2) * [1.0, 30.0]
    fc = SegmentRNNForecaster(
        horizon=12,
        lookback=48,
        segment=12,
        cell=cell,
        scaler=scaler,
        hidden_size=16,
        dropout=0.0,
        lr=0.01,
        max_epochs=25,
        random_state=0,
    ).fit(df[:400])
    ahead = fc.rolling_forecast(df[400:])
    error = (ahead - df.loc[ahead.index.get_level_values(-1)].to_numpy()).abs().mean()
    floor = 0.2 * np.sqrt(2 / np.pi) * np.array([1.0, 30.0])
    assert (error < 1.3 * floor).all()


def test_quantiles_hold_their_share():
    df = wave(700, noise=0.5)
    fc = SegmentRNNForecaster(
        horizon=6,
        lookback=24,
        segment=6,
        hidden_size=16,
        dropout=0.0,
        quantiles=[0.1, 0.9],
        lr=0.01,
        max_epochs=8,
        random_state=0,
    ).fit(df[:500])
    q = fc.rolling_forecast(df[500:], quantiles=[0.1, 0.5, 0.9])["y"]
    assert (np.diff(q.to_numpy(), axis=1) > 0).all()
    truth = df["y"].loc[q.index.get_level_values(-1)].to_numpy()
    below = (truth[:, None] < q.to_numpy()).mean(0)
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.1)


def test_known_static_and_past_covariates_act_where_they_should():
    df = wave(160, ("y", "z", "x", "past"))
    roles = {"target": ["y", "z"], "known": "x"}
    fc = tiny(**roles, max_epochs=4, lr=0.05).fit(df[:120])
    future = df[120:]
    whole = fc.predict(future)
    bad = future.copy()
    bad.iloc[3, 2] += 1.0  # the covariate of one row
    changed = np.abs(fc.predict(bad) - whole).max(axis=1) > 1e-9
    assert list(np.flatnonzero(changed)) == [3]
    # targets and past covariates of rows to forecast are not looked at
    bad = future.assign(y=1e9, z=np.nan, past=-np.inf)
    np.testing.assert_array_equal(fc.predict(bad), whole)
    # past covariates of the look-back are
    other = df[:120].assign(past=df["past"] + np.linspace(0, 3, 160))
    moved = tiny(**roles, max_epochs=4, lr=0.05).fit(other)
    assert not np.allclose(moved.predict(future), whole)
    twin = pd.concat(
        {"a": wave(60).assign(kind=0.0), "b": wave(60).assign(kind=1.0)}, names=["id", "time"]
    )
    ahead = tiny(static="kind", target="y").fit(twin).forecast()
    assert not np.allclose(ahead.loc["a"], ahead.loc["b"])
    same = tiny(target="y").fit(twin.drop(columns="kind")).forecast()
    np.testing.assert_allclose(same.loc["a"], same.loc["b"], rtol=1e-9)


@pytest.mark.parametrize("scaler", ["last", "window", "series", None])
def test_a_row_left_out_is_a_row_not_observed(scaler):
    df = wave(columns=("y", "z"))
    gaps = df.index[[7, 31, 32, 116]]
    left_out = tiny(scaler=scaler).fit(df.drop(gaps))
    hidden = df.copy()
    hidden.loc[gaps] = np.nan
    unobserved = tiny(scaler=scaler).fit(hidden)
    assert weights(left_out) == weights(unobserved)
    np.testing.assert_array_equal(left_out.forecast(horizon=8), unobserved.forecast(horizon=8))


# -- rolling origins -------------------------------------------------------------------------------


@pytest.mark.parametrize("quantiles", [None, [0.2, 0.8]])
@pytest.mark.parametrize("trained", [None, (0.1, 0.9)])
def test_rolling_forecast_is_update_and_forecast_origin_by_origin(quantiles, trained):
    df = wave(140, ("y", "z", "x"))
    fc = tiny(target=["y", "z"], known="x", quantiles=trained).fit(df[:120])
    whole = fc.rolling_forecast(df[120:], stride=3, quantiles=quantiles)
    assert fc.cutoff_ == df.index[119]
    assert whole.index.names == ["origin", None]
    origins = list(whole.index.get_level_values("origin").unique())
    assert origins == list(df.index[119:135:3])  # the last has five rows after it
    rest = df[120:]
    for origin in origins:
        if origin > fc.cutoff_:
            fc.update(rest[(rest.index > fc.cutoff_) & (rest.index <= origin)])
        expected = fc.forecast(df[df.index > origin][["x"]], quantiles=quantiles)
        part = whole.loc[origin]
        assert part.index.equals(expected.index)
        assert part.columns.equals(expected.columns)
        np.testing.assert_allclose(part, expected, rtol=1e-9)


def test_rolling_forecast_of_a_panel_with_unequal_ends():
    frame = pd.concat({"a": wave(140), "b": 3 * wave(140, seed=1)}, names=["id", "time"])
    time = frame.index.get_level_values("time")
    ends = frame.index.get_level_values("id").map({"a": time[119], "b": time[125]})
    fc = tiny().fit(frame[time <= ends])
    new = frame[time > ends]
    whole = fc.rolling_forecast(new)
    assert whole.index.names == ["id", "origin", "time"]
    counts = whole.groupby(level="id").size()
    assert dict(counts) == {"a": 5 * 16, "b": 5 * 10}
    for name in ("a", "b"):
        fc.update(new.loc[[name]].groupby(level="id").head(4))
        origin = fc.cutoff_[name] if isinstance(fc.cutoff_, pd.Series) else fc.cutoff_
        expected = fc.forecast().loc[name]
        np.testing.assert_allclose(whole.loc[(name, origin)], expected, rtol=1e-9)


def test_rolling_forecast_needs_a_whole_horizon():
    df = wave(140)
    fc = tiny().fit(df[:120])
    with pytest.raises(DataError, match="needs horizon=5 new rows of a series at least. Got 4"):
        fc.rolling_forecast(df[120:124])
    with pytest.raises(DataError, match="stride"):
        fc.rolling_forecast(df[120:], stride=0)
    assert len(fc.rolling_forecast(df[120:125])) == 5
