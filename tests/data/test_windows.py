"""Windows against a double loop over series and positions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowIndex, gather


def panel_of(lengths, seed=0, n_targets=2, n_past=1, n_known=2, n_static=1):
    rng = np.random.default_rng(seed)
    n = int(sum(lengths))

    def columns(k):
        values = rng.normal(size=(n, k))
        return np.where(rng.random((n, k)) < 0.1, np.nan, values)

    return Panel(
        columns(n_targets),
        columns(n_past),
        columns(n_known),
        rng.normal(size=(len(lengths), n_static)),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pd.RangeIndex(len(lengths)),
        (None, None),
        is_panel=len(lengths) > 1,
    )


def literal_windows(low, high, horizon, stride):
    found = []
    for series, (a, b) in enumerate(zip(low, high)):
        origin = a
        while origin + horizon <= b:
            found.append((series, origin))
            origin += stride
    return found


def literal_part(array, panel, series, positions):
    rows = []
    for position in positions:
        inside = 0 <= position < panel.lengths[series]
        row = panel.indptr[series] + position
        rows.append(array[row] if inside else np.full(array.shape[1], np.nan))
    return np.array(rows).reshape(len(positions), array.shape[1])


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    lengths=LENGTHS,
    offset=st.integers(0, 4),
    cut=st.integers(0, 4),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 4),
)
def test_window_numbers_against_a_loop(lengths, offset, cut, horizon, stride):
    low = np.full(len(lengths), offset)
    high = np.asarray(lengths) - cut
    windows = WindowIndex.between(low, high, horizon, stride)
    expected = literal_windows(low, high, horizon, stride)
    assert len(windows) == len(expected)
    if expected:
        series, origins = windows[np.arange(len(windows))]
        assert list(zip(series.tolist(), origins.tolist())) == expected
        some = windows.spread(3)
        assert len(some) == min(3, len(expected))
        assert len(set(some.tolist())) == len(some)
        assert some[0] == 0
        assert some[-1] == (len(expected) - 1 if len(some) > 1 else 0)


@settings(max_examples=80, deadline=None)
@given(
    lengths=LENGTHS,
    lookback=st.integers(1, 6),
    horizon=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_gather_against_a_loop(lengths, lookback, horizon, seed):
    panel = panel_of(lengths, seed)
    rng = np.random.default_rng(seed)
    series = rng.integers(0, len(lengths), size=7)
    origins = np.array([rng.integers(0, lengths[i] + 1) for i in series])  # the end too
    batch = gather(panel, series, origins, lookback, horizon)
    for k, (i, origin) in enumerate(zip(series, origins)):
        back, ahead = range(origin - lookback, origin), range(origin, origin + horizon)
        for name, positions in (("targets", back), ("past", back), ("known", back)):
            expected = literal_part(getattr(panel, name), panel, i, positions)
            np.testing.assert_array_equal(getattr(batch, name)[k], expected)
        for name, positions in (("targets", ahead), ("known", ahead)):
            expected = literal_part(getattr(panel, name), panel, i, positions)
            np.testing.assert_array_equal(getattr(batch, f"future_{name}")[k], expected)
        np.testing.assert_array_equal(batch.static[k], panel.static[i])


def test_a_batch_is_a_copy():
    panel = panel_of([30])
    before = panel.targets.copy()
    batch = gather(panel, np.array([0]), np.array([10]), 5, 2)
    batch.targets[:] = 7.0
    batch.future_targets[:] = 7.0
    np.testing.assert_array_equal(panel.targets, before)


def test_memory_is_one_batch_whatever_the_look_back():
    n, lookback, batch_size = 200_000, 720, 16
    panel = panel_of([n], n_targets=1, n_past=0, n_known=0, n_static=0)
    tracemalloc.start()
    try:
        windows = WindowIndex.between(np.array([lookback]), np.array([n]), 24)
        for start in range(0, 64, batch_size):
            series, origins = windows[np.arange(start, start + batch_size)]
            gather(panel, series, origins, lookback, 24)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_batch = batch_size * (lookback + 24) * 8
    assert peak < 6 * one_batch  # positions, rows and values; all windows would be 143,000 KiB
    assert peak < panel.targets.nbytes


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    held=st.integers(0, 6),
    lookback=st.integers(1, 12),
    horizon=st.integers(1, 6),
)
def test_training_windows_of_long_and_of_short_series(lengths, held, lookback, horizon):
    held = np.minimum(held, lengths)
    windows = WindowIndex.training(lengths, held, lookback, horizon)
    plain = WindowIndex.between(
        np.full(len(lengths), lookback), np.subtract(lengths, held), horizon
    )
    for i, n in enumerate(np.subtract(lengths, held)):
        origins = windows.first[i] + np.arange(windows.counts[i])
        if n >= lookback + horizon:
            assert (windows.first[i], windows.counts[i]) == (plain.first[i], plain.counts[i])
        elif n > horizon:  # at least half of the rows that can be looked back on, and one
            assert origins[0] == max((n - horizon) // 2, 1)
            assert origins[-1] == n - horizon
            assert origins[0] < lookback or lookback == 1
        else:
            assert len(origins) == 0
