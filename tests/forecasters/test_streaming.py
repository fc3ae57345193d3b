"""A stream against encoding the whole history at once, and against ``forecast`` and ``update``."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from rnnforecast import DeepGRUForecaster, DeepLSTMForecaster, DeepRNNForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.nn import Inputs
from rnnforecast.nn import step as step_module
from rnnforecast.nn.network import ForecastNetwork, NetworkSpec
from rnnforecast.nn.stream import StreamEncoder

pytestmark = pytest.mark.machine

COMMON = {"horizon": 4, "max_epochs": 1, "hidden_size": 8, "random_state": 0}


def hours(n, seed=0, columns=("y",), holes=False, start="2024-01-01"):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, len(columns))) + np.sin(np.arange(n) / 4)[:, None]
    if holes:
        values[rng.random(values.shape) < 0.1] = np.nan
    index = pd.date_range(start, periods=n, freq="h")
    return pd.DataFrame(values, index=index, columns=list(columns))


def panel(n, names=("a", "b", "c"), **options):
    parts = {name: hours(n, seed=k, **options) for k, name in enumerate(names)}
    return pd.concat(parts, names=["series", "time"])


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def at(frame, i):
    """Row i of every series."""
    return frame.groupby(level=0, sort=False).nth(i).to_numpy()


def apart(a, b):
    assert a.index.equals(b.index) and a.columns.equals(b.columns)
    return np.abs(a.to_numpy() - b.to_numpy()).max()


# -- states ----------------------------------------------------------------------------------------


def network_of(cell="lstm", hidden=16, layers=2, segment=1, season=1, residual=False, **more):
    spec = NetworkSpec(
        **{
            "n_targets": 2, "past": (), "known": (), "static": (), "lookback": 24, "horizon": 4,
            "season": season, "n_params": 1, "cell": cell, "hidden_size": hidden,
            "n_layers": layers, "bidirectional": False, "residual": residual, "dropout": 0.1,
            "shift": "mean", "segment": segment, **more,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    network = ForecastNetwork(spec).double().eval()
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -0.4, 0.4)
    return network


def history(network, n_series, n, seed=0):
    """Random rows in series units with a tenth missing: targets, past, known."""
    rng = np.random.default_rng(seed)
    spec = network.spec
    parts = [rng.standard_normal((n_series, n, k)) for k in (spec.n_targets, len(spec.past))]
    for part in parts:
        part[rng.random(part.shape) < 0.1] = np.nan
    return [*parts, rng.standard_normal((n_series, n, len(spec.known)))]


@torch.no_grad()
def all_at_once(network, rows, n):
    """Encoding of rows 0 .. n - 1 in one pass, in the unit of the first look-back."""
    lookback = network.spec.lookback
    targets, past, known = (torch.from_numpy(part[:, :n]) for part in rows)
    inputs = Inputs(targets, past, known, known[:, :0], targets[:, 0, :0])
    residual = network.take_effect(inputs)
    first = network.normalise(residual[:, :lookback])
    observed = ~torch.isnan(residual)
    unit = torch.where(observed, (residual - first.centre) / first.scale, 0.0)
    return network.encode(unit, observed, past)[1].numpy()


def opened(network, rows, **options):
    lookback = network.spec.lookback
    targets, past, known = (torch.from_numpy(part[:, :lookback].copy()) for part in rows)
    inputs = Inputs(targets, past, known, known[:, :0], targets[:, 0, :0])
    return StreamEncoder(network, inputs, **options)


CASES = [
    {"cell": "rnn", "hidden": 20, "layers": 1},
    {"cell": "lstm", "hidden": 64, "season": 7},
    {"cell": "gru", "hidden": 33, "layers": 3, "residual": True, "past": (0, 0)},
    {"cell": "lstm", "segment": 6, "season": 6, "residual": True},
    {"cell": "gru", "segment": 5, "season": 30, "past": (0,), "known": (0, 0)},
    {"cell": "lstm_peephole", "hidden": 10, "segment": 2},
    {"cell": "lstm", "segment": 24, "season": 24, "n_targets": 1, "shift": "none"},
    {"cell": "gru", "segment": 1, "season": 3, "independent": True, "past": (0,), "known": (0,)},
    {"cell": "lstm", "segment": 4, "season": 1, "independent": True, "n_targets": 3},
]


@pytest.mark.parametrize("native", [False, None])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_equal_encoding_the_whole_history(case, native):
    network = network_of(**case)
    for n_series in (1, 7):
        rows = history(network, n_series, 100)
        targets, past, known = rows
        encoder = opened(network, rows, native=native)
        single = opened(network, rows, native=native, dtype="float32")
        for t in range(network.spec.lookback, 100):
            parts = targets[:, t], past[:, t], known[:, t] if network.spec.known else None
            encoder.push(*parts)
            single.push(*parts)
            if t < 60 or t % 9 == 0:
                expected = all_at_once(network, rows, t + 1)
                assert np.abs(encoder.encoded - expected).max() < 1e-12
                assert np.abs(single.encoded - expected).max() < 1e-5


def test_the_future_is_not_there_to_be_read():
    network = network_of(segment=3, season=6, past=(0,))
    rows = history(network, 2, 40)
    spoilt = [np.where(np.arange(40)[None, :, None] < 30, part, 1e6) for part in rows]
    for given in (rows, spoilt):
        encoder = opened(network, given)
        for t in range(24, 30):
            encoder.push(given[0][:, t], given[1][:, t], None)
        if given is rows:
            expected = encoder.encoded
    assert np.array_equal(encoder.encoded, expected)


# -- the stream of a forecaster --------------------------------------------------------------------


@pytest.fixture(scope="module")
def one():
    return DeepLSTMForecaster(**COMMON, lookback=24, segment=1).fit(hours(150))


@pytest.fixture(scope="module")
def many():
    """Three series, two targets, a past and a known covariate, segments, quantiles, holes."""
    df = panel(150, columns=("y", "z", "p", "k"), holes=True)
    df["s"] = df.index.get_level_values(0).map({"a": 1.0, "b": 2.0, "c": 5.0})
    fc = DeepGRUForecaster(
        **COMMON,
        lookback=25,
        segment=6,
        seasonality=6,
        target=["y", "z"],
        known=["k"],
        static=["s"],
        quantiles=[0.1, 0.9],
    )
    return fc.fit(_first(df, 120)), df


def _first(df, n):
    return df.groupby(level=0, sort=False).head(n)


def _known(df, start, n):
    """Future rows of the known covariate."""
    return df[["k"]].groupby(level=0, sort=False).nth(slice(start, start + n))


def test_it_starts_where_forecast_is(one, many):
    assert apart(one.stream().forecast(), one.forecast()) < 1e-12
    assert apart(one.stream("float32").forecast(), one.forecast()) < 1e-5
    fc, df = many
    future = _known(df, 120, 9)
    for options in ({}, {"horizon": 9}, {"quantiles": [0.1, 0.5]}, {"horizon": 2}):
        expected = fc.forecast(future, **options)
        assert apart(fc.stream().forecast(future, **options), expected) < 1e-11


def test_after_refresh_it_is_update_and_forecast(one, many):
    new = hours(30, seed=5, start="2024-01-07 06:00")
    stream = one.stream()
    for value in new["y"]:
        assert stream.update(value) is stream
    expected = copy.deepcopy(one).update(new).forecast(horizon=7, quantiles=[0.2, 0.8])
    before = stream.forecast(horizon=7, quantiles=[0.2, 0.8])
    assert before.index.equals(expected.index)  # the stamps are right without it
    assert apart(stream.refresh().forecast(horizon=7, quantiles=[0.2, 0.8]), expected) < 1e-12
    fc, df = many
    stream = fc.stream()
    for i in range(120, 141):
        row = at(df, i)
        stream.update(row[:, :2], past=row[:, 2:3], known=row[:, 3:4])
    rows = df.groupby(level=0, sort=False).nth(slice(120, 141))
    expected = copy.deepcopy(fc).update(rows).forecast(_known(df, 141, 6), horizon=6)
    assert apart(stream.refresh().forecast(_known(df, 141, 6), horizon=6), expected) < 1e-11


@pytest.mark.parametrize("scaler", ["series", None])
def test_without_a_window_scaler_only_the_encodings_length_differs(scaler):
    df = hours(150, seed=3)
    fc = DeepGRUForecaster(**COMMON, lookback=24, segment=1, scaler=scaler).fit(df[:120])
    stream = fc.stream()
    for value in df["y"][120:]:
        stream.update(value)
    rows = [
        fc.scale_.targets(df["y"].to_numpy()[None, 96:, None], np.array([0])),
        np.empty((1, 54, 0)),
        np.empty((1, 54, 0)),
    ]
    expected = all_at_once(fc.network_, rows, 54)
    assert np.abs(stream.hidden_[-1] - expected).max() < 1e-12


def test_long_streams_keep_their_buffers(one):
    """More updates than the rings have room for; float64 by float64 against the whole pass."""
    df = hours(300, seed=4)
    stream = one.stream()
    for value in df["y"]:
        stream.update(value)
    everything = np.concatenate([one.panel_.targets[-24:], df.to_numpy()])
    scaled = one.scale_.targets(everything[None], np.array([0]))
    expected = all_at_once(one.network_, [scaled, *[np.empty((1, 324, 0))] * 2], 324)
    assert np.abs(stream.hidden_[-1] - expected).max() < 1e-12
    assert stream.n_updates == 300
    assert stream.cutoff_ == one.cutoff_ + pd.Timedelta("300h")


def test_the_doors_agree(one, many):
    fc, df = many
    rows = at(df, 120), at(df, 121)
    plain = fc.stream()
    for row in rows:
        plain.update(row[:, :2], past=row[:, 2:3], known=row[:, 3:4])
    framed = fc.stream().update(df.groupby(level=0, sort=False).nth(slice(120, 122)))
    future = _known(df, 122, 4)
    expected = plain.forecast(future)
    assert apart(framed.forecast(future), expected) == 0
    named = fc.stream()
    for row in rows:
        values = {name: list(row[k, :2]) for k, name in zip((2, 0, 1), "cab", strict=True)}
        named.update(values, past=row[:, 2], known=row[:, 3:4])
    assert apart(named.forecast(future), expected) == 0
    assert named.n_updates == framed.n_updates == 2
    single = [one.stream() for _ in range(5)]
    for stream, value in zip(
        single, (0.7, [0.7], np.array([[0.7]]), {"y": 0.7}, None), strict=True
    ):
        if value is None:
            value = pd.DataFrame({"y": [0.7]}, index=one.future_index(1))
        assert apart(stream.update(value).forecast(), single[0].forecast()) == 0


def test_rows_of_a_frame_with_a_gap_are_unobserved_steps(one):
    stamps = one.future_index(5)
    frame = pd.DataFrame({"y": [0.1, 0.2]}, index=stamps[[1, 4]])
    gaps = one.stream().update(frame)
    steps = one.stream()
    for value in (np.nan, 0.1, np.nan, np.nan, 0.2):
        steps.update(value)
    assert gaps.n_updates == 5
    assert apart(gaps.forecast(), steps.forecast()) == 0
    assert gaps.cutoff_ == stamps[4]


def test_a_shared_known_row_and_missing_series(many):
    fc, df = many
    past, nothing = at(df, 120)[:, 2:3], np.full((3, 2), np.nan)
    future = _known(df, 121, 4)
    shared = fc.stream().update(nothing, past=past, known=[0.3]).forecast(future)
    each = fc.stream().update({}, past=past, known=np.full((3, 1), 0.3)).forecast(future)
    assert apart(shared, each) == 0


def test_other_calendars():
    days = pd.bdate_range("2024-01-01", periods=80)
    months = pd.period_range("1990-01", periods=80, freq="M")
    zoned = pd.date_range("2024-03-20", periods=80, freq="D", tz="Europe/Berlin")
    for index in (days, months, zoned, pd.RangeIndex(80)):
        df = hours(80).set_axis(index)
        fc = DeepGRUForecaster(**COMMON, lookback=12).fit(df[:60])
        stream = fc.stream()
        for value in df["y"][60:]:
            stream.update(value)
        expected = copy.deepcopy(fc).update(df[60:]).forecast()
        assert apart(stream.refresh().forecast(), expected) < 1e-12
        assert stream.cutoff_ == index[-1]
    holidays = days.delete([30, 65, 66])
    df = hours(77).set_axis(holidays)
    fc = DeepGRUForecaster(**COMMON, lookback=12).fit(df[:60])
    expected = copy.deepcopy(fc).update(df[60:]).forecast()
    assert apart(fc.stream().update(df[60:]).refresh().forecast(), expected) < 1e-12
    array = hours(80).to_numpy()
    fc = DeepGRUForecaster(**COMMON, lookback=12).fit(array)
    assert list(fc.stream().update(0.1).forecast().index) == [81, 82, 83, 84]


def test_series_that_end_apart():
    df = panel(90).drop(index=("b", pd.Timestamp("2024-01-04 17:00")))
    fc = DeepGRUForecaster(**COMMON, lookback=12).fit(df)
    ahead = fc.future_index(1)
    stream = fc.stream().update(pd.DataFrame({"y": [1.0, 2.0, 3.0]}, index=ahead))
    by_array = fc.stream().update([1.0, 2.0, 3.0])
    assert apart(stream.forecast(), by_array.forecast()) == 0
    expected = (
        copy.deepcopy(fc).update(pd.DataFrame({"y": [1.0, 2.0, 3.0]}, index=ahead)).forecast()
    )
    assert apart(stream.refresh().forecast(), expected) < 1e-12
    later = pd.MultiIndex.from_product([["a", "b", "c"], [pd.Timestamp("2024-01-04 18:00")]])
    with pytest.raises(DataError, match="end at different times"):
        fc.stream().update(pd.DataFrame({"y": [1.0, 2.0, 3.0]}, index=later))


def test_targets_apart_from_their_covariates():
    """Fitted on (X, y): X is known, and a row of it goes with each target."""
    df = hours(130, columns=("a", "b", "y"))
    X, y = df[["a", "b"]], df["y"]
    fc = DeepGRUForecaster(**COMMON, lookback=24).fit(X[:110], y[:110])
    stream = fc.stream()
    for row, value in zip(X[110:126].to_numpy(), y[110:126], strict=True):
        stream.update(value, known=row)
    expected = copy.deepcopy(fc).update(X[110:126], y[110:126]).forecast(X[126:])
    assert apart(stream.refresh().forecast(X), expected) < 1e-12  # rows of the past are left aside
    with pytest.raises(DataError, match="pass the targets of one row as numbers"):
        stream.update(X[126:127])


def test_members_run_together():
    df = hours(130)
    fc = DeepLSTMForecaster(**COMMON, lookback=24, n_members=3).fit(df[:120])
    stream = fc.stream()
    assert apart(stream.forecast(), fc.forecast()) < 1e-12
    for value in df["y"][120:]:
        stream.update(value)
    expected = copy.deepcopy(fc).update(df[120:]).forecast(horizon=6)
    assert apart(stream.refresh().forecast(horizon=6), expected) < 1e-12
    assert stream.hidden_.shape == (3, 2, 1, 8)


# -- what it leaves alone, and what it refuses -----------------------------------------------------


def test_the_forecaster_is_not_changed(one):
    before, n = one.forecast(), len(one.panel_.targets)
    stream = one.stream()
    for value in (1.0, np.nan, 3.0):
        stream.update(value)
    stream.refresh().forecast()
    assert apart(one.forecast(), before) == 0
    assert len(one.panel_.targets) == n
    other = copy.deepcopy(one)
    stream = other.stream()
    expected = stream.forecast()
    other.fit(hours(150, seed=9))
    assert apart(stream.forecast(), expected) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_go_on_alike_and_apart(one, copied):
    stream = one.stream().update(0.3).update(0.4)
    twin = copied(stream)
    stream.update(0.5)
    assert twin.n_updates == 2
    assert apart(twin.update(0.5).forecast(), stream.forecast()) == 0
    twin.update(0.6)
    assert (
        apart(stream.forecast(), one.stream().update(0.3).update(0.4).update(0.5).forecast()) == 0
    )


def test_a_buffer_of_rows_may_be_written_over(one):
    row = np.array([0.5])
    stream = one.stream().update(row)
    row[0] = 9.0
    assert apart(stream.refresh().forecast(), one.stream().update(0.5).refresh().forecast()) == 0


def test_hidden_states_are_views_to_read(one):
    stream = one.stream()
    hidden = stream.hidden_
    assert hidden.shape == (2, 1, 8)
    with pytest.raises(ValueError, match="read-only"):
        hidden[...] = 0
    copied = hidden.copy()
    stream.update(1.0)
    assert not np.array_equal(stream.hidden_, copied)
    assert "1 updates since DeepLSTMForecaster.stream()" in repr(stream)


def test_wrong_rows_are_refused_and_change_nothing(one, many):
    single, (fc, df) = one.stream(), many
    stream = fc.stream()
    row = at(df, 120)
    good = {"past": row[:, 2:3], "known": row[:, 3:4]}
    states = single.hidden_.copy(), stream.hidden_.copy()
    before = pd.DataFrame({"y": [1.0]}, index=[one.cutoff_])
    twice = pd.DataFrame({"y": [1.0, 2.0]}, index=one.future_index(1)[[0, 0]])
    for values, message in (
        ([1.0, 2.0], r"shape \(1,\) or \(\) or \(1, 1\). Got \(2,\)"),
        ([], r"Got \(0,\)"),
        (float("inf"), "infinite"),
        ("high", "must be numbers. Got 'high'"),
        ({"x": 1.0}, "column 'x' is none of"),
        (before, "is not after the cutoff"),
        (twice, "more than once"),
    ):
        with pytest.raises(DataError, match=message):
            single.update(values)
    with pytest.raises(DataError, match="has no past covariates"):
        single.update(1.0, past=[1.0])
    with pytest.raises(DataError, match="has no known covariates"):
        single.update(1.0, known=[1.0])
    for values, options, message in (
        (row[:, 0], good, r"shape \(3, 2\). Got \(3,\)"),
        (row[:2, :2], good, r"Got \(2, 2\)"),
        (row[:, :2], {"past": good["past"]}, r"the known covariates \['k'\]: pass known="),
        (row[:, :2], {"known": good["known"]}, r"the past covariates \['p'\]: pass past="),
        (row[:, :2], {**good, "known": [1.0, 2.0]}, r"known must hold \['k'\]"),
        (row[:, :2], {**good, "known": {"h": 1.0}}, r"known must hold \['k'\]. Got \['h'\]"),
        ({"d": [1.0, 2.0]}, good, "series 'd' was not in the data"),
        ({"a": 1.0}, good, r"series 'a' must hold .*shape \(2,\) or \(1, 2\). Got \(\)"),
        (df.groupby(level=0).nth(slice(120, 121)), good, "holds its covariates itself"),
    ):
        with pytest.raises(DataError, match=message):
            stream.update(values, **options)
    with pytest.raises(DataError, match="future rows of the known covariates"):
        stream.forecast()
    assert single.n_updates == stream.n_updates == 0
    assert np.array_equal(single.hidden_, states[0]) and np.array_equal(stream.hidden_, states[1])


def test_what_cannot_stream():
    df = hours(100)
    both = DeepRNNForecaster(**COMMON, lookback=12, bidirectional=True).fit(df)
    with pytest.raises(DataError, match=r"causal encoder.*bidirectional=True.*use update\(\)"):
        both.stream()
    with pytest.raises(NotFittedError):
        DeepRNNForecaster().stream()
    with pytest.raises(DataError, match="dtype must be one of"):
        DeepRNNForecaster(**COMMON, lookback=12).fit(df).stream("float16")


def test_in_numpy_it_is_the_same(one, monkeypatch):
    compiled = one.stream()
    monkeypatch.setattr(step_module, "library", lambda: None)
    plain = one.stream()
    for value in (1.0, np.nan, -2.0):
        compiled.update(value)
        plain.update(value)
    assert apart(compiled.forecast(), plain.forecast()) < 1e-12
