"""Origins chosen by length, and panels cut there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rnnforecast import NaiveForecaster
from rnnforecast.auto._origins import cut, pick, plan_origins


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
    origins = plan_origins(fitted(lengths).panel_, horizon, given)
    assert (origins.n_origins, origins.n_steps) == expected
    assert origins.series.tolist() == list(range(len(lengths)))


def test_short_and_empty_series_are_not_judged_but_stay_whole():
    fc = fitted([60, 60, 9, 60])
    targets = fc.panel_.targets.copy()
    targets[-10:] = np.nan  # nothing observed to judge by
    panel = fitted([60, 60, 9, 60]).panel_
    object.__setattr__(panel, "targets", targets)
    origins = plan_origins(panel, 6, 1)
    assert origins.series.tolist() == [0, 1]
    assert origins.panel(panel, 0).lengths.tolist() == [54, 54, 9, 60]


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("freq", ["D", "B"])
def test_a_cut_panel_is_the_panel_of_the_rows_before(freq, gap):
    fc = fitted([30, 25], freq=freq, gap=gap)
    panel = fc.panel_
    ends = panel.lengths - [4, 7]
    short = cut(panel, ends)
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


def test_blocks_are_the_rows_after_each_origin():
    panel = fitted([60, 80]).panel_
    origins = plan_origins(panel, 5, 2)
    blocks = origins.blocks(panel, panel.targets)
    assert blocks.shape == (2, 2, 5, 1)
    for s in range(2):
        for k in range(2):
            before = origins.panel(panel, k)
            end = int(before.lengths[s])
            rows = panel.targets[panel.series(s)][end : end + 5]
            np.testing.assert_array_equal(blocks[s, k], rows)


def test_picked_series_keep_their_names_and_rows():
    panel = fitted([10, 12, 14]).panel_
    few = pick(panel, np.array([2, 0]), np.array([5, 3]))
    assert few.ids.tolist() == ["s2", "s0"]
    np.testing.assert_array_equal(few.targets[:, 0], [200, 201, 202, 203, 204, 0, 1, 2])
    assert few.time_index(0)[0] == panel.time_index(2)[0]
