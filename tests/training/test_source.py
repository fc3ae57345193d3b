"""Units and batches of windows against moments and rows taken by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowIndex
from rnnforecast.training.source import WindowSource, measure_units

CPU = torch.device("cpu")


def panel_of(lengths=(30, 45), seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    n = sum(lengths)

    def columns(k, scale):
        values = 100 + scale * rng.normal(size=(n, k))
        return np.where(rng.random((n, k)) < 0.1, np.nan, values).astype(dtype)

    return Panel(
        columns(2, 7.0),
        columns(1, 3.0),
        columns(2, 0.1),
        rng.normal(size=(len(lengths), 1)),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pd.RangeIndex(len(lengths)),
        (None, None),
        is_panel=True,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_are_mean_and_deviation(dtype):
    panel = panel_of(dtype=dtype)
    units = measure_units(panel)
    for i in range(2):
        own = panel.targets[panel.series(i)].astype(np.float64)
        np.testing.assert_allclose(units.target_loc[i], np.nanmean(own, axis=0), rtol=1e-6)
        np.testing.assert_allclose(units.target_scale[i], np.nanstd(own, axis=0), rtol=1e-5)
    for name in ("past", "known", "static"):
        values = getattr(panel, name).astype(np.float64)
        np.testing.assert_allclose(getattr(units, f"{name}_loc"), np.nanmean(values, 0), rtol=1e-6)
        np.testing.assert_allclose(getattr(units, f"{name}_scale"), np.nanstd(values, 0), rtol=1e-5)
    plain = measure_units(panel, per_series=False)
    assert (plain.target_loc == 0).all()
    assert (plain.target_scale == 1).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -3e-9])
def test_a_constant_column_has_unit_one(value):
    panel = panel_of()
    panel.targets[:, 0] = value
    panel.known[:, 1] = np.nan
    units = measure_units(panel)
    assert (units.target_scale[:, 0] == 1).all()
    np.testing.assert_allclose(units.target_loc[:, 0], value, rtol=1e-12)
    assert (units.known_loc[1], units.known_scale[1]) == (0, 1)


def test_restore_is_the_inverse():
    panel = panel_of()
    units = measure_units(panel)
    series = np.array([1, 0, 1])
    values = np.random.default_rng(0).normal(size=(3, 4, 2))
    loc, scale = units.target_loc[series][:, None], units.target_scale[series][:, None]
    np.testing.assert_allclose((units.restore(values, series) - loc) / scale, values)
    levels = units.restore(values[..., None] + np.arange(3), series)
    np.testing.assert_allclose(levels[..., 0], units.restore(values, series))
    np.testing.assert_allclose(
        levels[..., 2] - levels[..., 0], np.broadcast_to(2 * scale, (3, 4, 2))
    )


def source_of(panel, batch_size=8, max_steps=100, lookback=5, horizon=3):
    windows = WindowIndex.between(np.full(2, lookback), panel.lengths, horizon)
    return WindowSource(
        panel, windows, measure_units(panel), lookback, horizon, batch_size, max_steps, CPU
    )


def test_a_batch_is_rows_in_units():
    panel = panel_of()
    source = source_of(panel)
    units = source.units
    numbers = np.array([0, 23, 60])
    batch = source.take(numbers)
    series, origins = source.windows[numbers]
    assert list(series) == [0, 1, 1]
    for k, (i, p) in enumerate(zip(series, origins)):
        a = panel.indptr[i]
        y = (panel.targets - units.target_loc[i]) / units.target_scale[i]
        x = (panel.known - units.known_loc) / units.known_scale
        z = (panel.past - units.past_loc) / units.past_scale
        for tensor, expected in (
            (batch.inputs.targets, y[a + p - 5 : a + p]),
            (batch.inputs.past, z[a + p - 5 : a + p]),
            (batch.inputs.known, x[a + p - 5 : a + p]),
            (batch.inputs.future_known, x[a + p : a + p + 3]),
            (batch.truth, y[a + p : a + p + 3]),
        ):
            assert tensor.dtype == torch.float32
            np.testing.assert_allclose(tensor[k], expected, rtol=1e-5, atol=1e-5)


def test_an_epoch_is_one_pass_in_an_order_of_the_generator():
    source = source_of(panel_of(), batch_size=9)
    taken = []
    source.take = lambda numbers: taken.append(numbers)
    list(source.epoch(torch.Generator().manual_seed(0)))
    assert len(taken) == len(source) == -(-len(source.windows) // 9)
    first = np.concatenate(taken)
    np.testing.assert_array_equal(np.sort(first), np.arange(len(source.windows)))
    taken.clear()
    list(source.epoch(torch.Generator().manual_seed(0)))
    np.testing.assert_array_equal(np.concatenate(taken), first)
    taken.clear()
    list(source.epoch(torch.Generator().manual_seed(1)))
    assert not np.array_equal(np.concatenate(taken), first)


@pytest.mark.parametrize("max_steps", [1, 4])
def test_an_epoch_of_very_many_windows_is_cut(max_steps):
    source = source_of(panel_of((300, 300)), batch_size=16, max_steps=max_steps)
    batches = list(source.epoch(torch.Generator().manual_seed(0)))
    assert len(batches) == len(source) == max_steps
    assert all(len(batch.truth) == 16 for batch in batches)


def test_windows_spread_evenly_cover_all():
    source = source_of(panel_of())
    numbers = np.concatenate([n for n, _ in source.evenly(1000, 7)])
    np.testing.assert_array_equal(numbers, np.arange(len(source.windows)))
    few = np.concatenate([n for n, _ in source.evenly(5, 2)])
    assert len(few) == 5
    assert np.diff(few).max() - np.diff(few).min() <= 1


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_units_of_very_large_and_very_small_values(unit):
    panel = panel_of()
    plain = measure_units(panel)
    scaled = measure_units(dataclasses.replace(panel, targets=panel.targets * unit))
    np.testing.assert_allclose(scaled.target_loc / unit, plain.target_loc)
    np.testing.assert_allclose(scaled.target_scale / unit, plain.target_scale)
