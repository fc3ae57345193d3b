"""Segments, dense training, independent targets and the rules for width and batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from rnnforecast import (
    BiGRUForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    ESRNNForecaster,
    SegmentRNNForecaster,
)
from rnnforecast.data.seasonality import choose_segment
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import windows

TINY = {"horizon": 4, "lookback": 12, "hidden_size": 4, "max_epochs": 2, "random_state": 0}


def frame(n=120, seed=0, columns=("y",)):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    values = rng.normal(size=(n, len(columns))).cumsum(0)
    return pd.DataFrame(values, index=index, columns=list(columns))


def weights(fc):
    return [p.detach().clone() for p in fc.network_.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("season", "lookback", "expected"),
    [(24, 168, 24), (24, 48, 24), (24, 47, 1), (1, 100, 1), (7, 14, 7)],
)
def test_a_segment_is_a_season_where_the_lookback_holds_two(season, lookback, expected):
    assert choose_segment(season, lookback) == expected
    fc = DeepLSTMForecaster(**{**TINY, "lookback": lookback}, seasonality=season)
    assert fc.fit(frame(260)).segment_ == expected


def test_a_segment_longer_than_the_lookback_is_refused():
    with pytest.raises(DataError, match="segment must be at most the look-back, 12. Got 13"):
        DeepLSTMForecaster(**TINY, segment=13).fit(frame())


@pytest.mark.parametrize(("n", "batch"), [(10, 32), (50_000, 50), (200_000, 128)])
def test_the_batch_is_a_thousandth_of_the_windows(n, batch):
    quick = {"horizon": 1, "lookback": 2, "seasonality": 1, "hidden_size": 2, "max_epochs": 1}
    fc = DeepGRUForecaster(**quick, n_layers=1, validation_fraction=0.0, calendar=False)
    assert fc.fit(np.arange(n + 2.0)[:, None] % 7).batch_size_ == batch
    assert fc.set_params(batch_size=3).fit(np.arange(20.0)[:, None]).batch_size_ == 3


def test_many_windows_get_a_wider_network(monkeypatch):
    small = DeepLSTMForecaster(**{**TINY, "hidden_size": None}).fit(frame())
    assert (small.hidden_size_, small.network_.spec.hidden_size, small.batch_size_) == (32, 32, 32)
    monkeypatch.setattr(windows, "_MANY", 50)
    wide = DeepLSTMForecaster(**{**TINY, "hidden_size": None}).fit(frame())
    assert (wide.hidden_size_, wide.network_.spec.hidden_size) == (64, 64)


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("options", [{}, {"segment": 3}, {"quantiles": (0.1, 0.9)}])
def test_dense_training_learns_and_calibrates(validation, options):
    """A sine that the anchors miss: two seasons in a look-back that names none."""
    n = 300
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    df = pd.DataFrame({"y": np.sin(np.arange(n) * 2 * np.pi / 5)}, index=index)
    settings = {
        "horizon": 4,
        "lookback": 12,
        "hidden_size": 16,
        "seasonality": 1,
        "training": "dense",
        "random_state": 0,
        "validation_fraction": validation,
        **options,
    }
    fc = DeepGRUForecaster(max_epochs=30, lr=0.02, **settings).fit(df[:-4])
    assert np.abs(fc.forecast() - df[-4:]).to_numpy().max() < 0.25
    assert np.isfinite(fc.predict_interval(df[-4:], coverage=0.8)).all()


def test_dense_training_reads_no_row_that_validates():
    df = frame(200)
    settings = {**TINY, "training": "dense", "scaler": None, "validation_fraction": 0.25}
    settings |= {"early_stopping": False, "loss": "mse"}  # which feels every change
    first = DeepLSTMForecaster(**settings).fit(df)
    spoiled = df.copy()
    spoiled.iloc[150:] = 1e3
    assert same(weights(first), weights(DeepLSTMForecaster(**settings).fit(spoiled)))
    earlier = df.copy()
    earlier.iloc[149] += 1.0
    assert not same(weights(first), weights(DeepLSTMForecaster(**settings).fit(earlier)))


def test_dense_training_of_a_short_series_falls_back_on_windows():
    df = frame(17)  # two windows
    dense = DeepLSTMForecaster(**TINY, training="dense", validation_fraction=0.0).fit(df)
    assert np.isfinite(dense.forecast().to_numpy()).all()


def test_dense_training_beside_a_very_short_series():
    """Whose stretch begins long before the first row of the data."""
    df = pd.concat({"a": frame(8), "b": frame(200), "c": frame(150)}, names=["series", "time"])
    dense = DeepLSTMForecaster(**{**TINY, "lookback": 24}, training="dense").fit(df)
    assert np.isfinite(dense.forecast().to_numpy()).all()


def test_both_directions_cannot_be_trained_densely():
    with pytest.raises(DataError, match="use training='windows'"):
        BiGRUForecaster(**TINY, training="dense").fit(frame())


@pytest.mark.parametrize("channels", ["independent", "joint"])
def test_whether_a_target_is_forecast_from_the_others(channels):
    df = frame(columns=("a", "b"))
    fc = DeepGRUForecaster(**TINY, channels=channels).fit(df[:-10])
    rows = df[-10:].copy()
    rows["b"] += 3.0
    plain = fc.rolling_forecast(df[-10:])["a"].to_numpy()
    moved = fc.rolling_forecast(rows)["a"].to_numpy()
    if channels == "independent":
        assert np.array_equal(plain, moved)
    else:
        assert not np.allclose(plain, moved)


def test_one_target_is_the_same_network_either_way():
    one = DeepGRUForecaster(**TINY, channels="independent").fit(frame())
    other = DeepGRUForecaster(**TINY, channels="joint").fit(frame())
    assert same(weights(one), weights(other))


@pytest.mark.parametrize(("name", "value"), [("training", "both"), ("channels", "apart")])
def test_unknown_choices_are_refused(name, value):
    with pytest.raises(DataError, match=f"{name} must be one of"):
        DeepLSTMForecaster(**TINY, **{name: value}).fit(frame())


@pytest.mark.parametrize(
    "forecaster",
    [
        DeepGRUForecaster(n_layers=np.int64(2), n_members=np.int64(2)),
        SegmentRNNForecaster(),
        ESRNNForecaster(n_batches=np.int64(2), n_members=np.int64(1)),
    ],
    ids=lambda fc: type(fc).__name__,
)
def test_numpy_integers_are_integers(forecaster):
    """A grid of numpy.arange is made of them."""
    numbers = {"horizon": 2, "lookback": 24, "hidden_size": 4, "max_epochs": 1, "batch_size": 8}
    plain = clone(forecaster).set_params(seasonality=12, random_state=0, **numbers)
    numpy = clone(forecaster).set_params(
        seasonality=np.int64(12), random_state=0, **{k: np.int64(v) for k, v in numbers.items()}
    )
    df = frame(150) + 50
    pd.testing.assert_frame_equal(plain.fit(df).forecast(), numpy.fit(df).forecast())


def test_a_season_of_trading_days_is_a_segment():
    df = frame(100)
    df.index = pd.bdate_range("2024-01-01", periods=110).delete(
        [9, 30, 47, 48, 60, 61, 70, 75, 81, 99]
    )
    fc = DeepLSTMForecaster(**{**TINY, "lookback": 20}).fit(df)
    assert (fc.seasonality_, fc.segment_) == (5, 5)


@pytest.mark.parametrize("make", [DeepGRUForecaster, ESRNNForecaster])
def test_rows_without_an_observation_validate_nothing(make):
    """Their loss would be zero, the best there is, and their intervals of no width."""
    df = frame(160) + 50
    df.iloc[-20:] = np.nan
    quick = {"n_batches": 3, "n_members": 1} if make is ESRNNForecaster else {"patience": 2}
    fc = make(horizon=4, lookback=24, hidden_size=4, max_epochs=5, random_state=0, **quick).fit(df)
    width = np.diff(fc.forecast(quantiles=[0.05, 0.95]).to_numpy(), axis=1)
    assert (width > 0.01).all()
    if make is DeepGRUForecaster:
        assert np.isnan(fc.history_.val_loss).all() and fc.n_epochs_ == 5


def test_a_history_that_outgrows_the_narrow_network_trains_on(monkeypatch):
    monkeypatch.setattr(windows, "_MANY", 100)
    df = frame(220)
    fc = DeepGRUForecaster(**{**TINY, "hidden_size": None}).fit(df[:100])
    assert fc.partial_fit(df[100:]).network_.spec.hidden_size == 32
