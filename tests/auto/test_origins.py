"""Origins chosen by length, and panels cut there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rnnforecast import NaiveForecaster
from rnnforecast.auto.judge import first_rows, plan_origins


def fitted(lengths, freq="D", gap=False, **options):
    parts = {}
    for i, n in enumerate(lengths):
        index = pd.date_range(f"2024-01-{i % 28 + 1:02d}", periods=n, freq=freq)
        parts[f"s{i}"] = pd.DataFrame({"y": np.arange(float(n)) + 100 * i, "x": 1.0 * i}, index)
    frame = pd.concat(parts, names=["id", "time"])
    if gap:
        frame = frame.drop(frame.index[3])
    return NaiveForecaster(target="y", known="x", **options).fit(frame)


@pytest.mark.parametrize(
    ("lengths", "horizon", "given", "expected"),
    [
        ([1000], 24, None, (9, 24)),  # 200 values over 24 steps
        ([1000], 100, None, (2, 100)),  # three, but a quarter of the rows holds two
        ([1000], 1, None, (30, 1)),
        ([700] * 40, 48, None, (1, 48)),  # one origin of 40 series is plenty
        ([700] * 5, 48, None, (3, 48)),
        ([40], 24, None, (1, 10)),  # no more than a quarter of the rows
        ([1000], 24, 2, (2, 24)),
        ([100], 24, 5, (1, 24)),
    ],
)
def test_how_many_origins(lengths, horizon, given, expected):
    windows = plan_origins(fitted(lengths).panel_, horizon, given)
    n_origins, n_steps = expected
    assert windows.counts.tolist() == [n_origins] * len(lengths) and windows.stride == n_steps
    assert windows.first.tolist() == [n - n_origins * n_steps for n in lengths]


def test_short_and_empty_series_are_not_judged():
    panel = fitted([60, 60, 9, 60]).panel_
    targets = panel.targets.copy()
    targets[-10:] = np.nan  # nothing observed to judge by
    windows = plan_origins(replace(panel, targets=targets), 6, 1)
    assert windows.counts.tolist() == [1, 1, 0, 0]
    assert windows.first[:2].tolist() == [54, 54]


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("freq", ["D", "B"])
def test_a_cut_panel_is_the_panel_of_the_rows_before(freq, gap):
    fc = fitted([30, 25], freq=freq, gap=gap)
    panel = fc.panel_
    ends = panel.lengths - [4, 7]
    short = first_rows(panel, np.arange(2), ends)
    frame = fc.history().assign(x=panel.known[: len(fc.history())])
    head = pd.concat(
        frame[frame.index.get_level_values(0) == name].loc[
            lambda rows, i=i: rows.index.get_level_values(1) <= panel.time_index(i)[ends[i] - 1]
        ]
        for i, name in enumerate(panel.ids)
    )
    expected = NaiveForecaster(target="y", known="x").fit(head).panel_
    np.testing.assert_array_equal(short.targets, expected.targets)
    np.testing.assert_array_equal(short.indptr, expected.indptr)
    for i in range(2):
        pd.testing.assert_index_equal(short.time_index(i), expected.time_index(i), exact=False)
        pd.testing.assert_index_equal(
            short.future_index(i, 5), expected.future_index(i, 5), exact=False
        )


def test_picked_series_keep_their_names_and_rows():
    panel = fitted([10, 12, 14]).panel_
    few = first_rows(panel, np.array([2, 0]), np.array([5, 3]))
    assert few.ids.tolist() == ["s2", "s0"]
    np.testing.assert_array_equal(few.targets[:, 0], [200, 201, 202, 203, 204, 0, 1, 2])
    assert few.time_index(0)[0] == panel.time_index(2)[0]
