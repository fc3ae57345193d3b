"""Scales and batches of windows against moments and rows taken by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.windows import WindowIndex
from rnnforecast.training import source as source_module
from rnnforecast.training.source import WindowSource, static_inputs

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
def test_scales_are_mean_and_deviation(dtype):
    panel = panel_of(dtype=dtype)
    scale = Scale.of(panel)
    for i in range(2):
        own = panel.targets[panel.series(i)].astype(np.float64)
        np.testing.assert_allclose(scale.target_loc[i], np.nanmean(own, axis=0), rtol=1e-6)
        np.testing.assert_allclose(scale.target_scale[i], np.nanstd(own, axis=0), rtol=1e-5)
    for name in ("past", "known", "static"):
        values = getattr(panel, name).astype(np.float64)
        np.testing.assert_allclose(getattr(scale, f"{name}_loc"), np.nanmean(values, 0), rtol=1e-6)
        np.testing.assert_allclose(getattr(scale, f"{name}_scale"), np.nanstd(values, 0), rtol=1e-5)
    plain = Scale.of(panel, per_series=False)
    assert (plain.target_loc == 0).all()
    assert (plain.target_scale == 1).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -3e-9])
def test_a_constant_column_has_scale_one(value):
    panel = panel_of()
    panel.targets[:, 0] = value
    panel.known[:, 1] = np.nan
    scale = Scale.of(panel)
    assert (scale.target_scale[:, 0] == 1).all()
    np.testing.assert_allclose(scale.target_loc[:, 0], value, rtol=1e-12)
    # a covariate that was never observed is not, whatever it holds later
    assert scale.known_loc[1] == 0 and np.isnan(scale.known_scale[1])


def test_targets_are_scaled_by_those_of_their_series():
    panel = panel_of()
    scale = Scale.of(panel)
    series = np.array([1, 0, 1])
    values = np.random.default_rng(0).normal(size=(3, 4, 2))
    loc, size = scale.target_loc[series][:, None], scale.target_scale[series][:, None]
    np.testing.assert_allclose(scale.targets(values * size + loc, series), values, atol=1e-12)


def source_of(panel, batch_size=8, max_steps=100, lookback=5, horizon=3):
    windows = WindowIndex.between(np.full(panel.n_series, lookback), panel.lengths, horizon)
    return WindowSource(
        panel, windows, Scale.of(panel), None, lookback, horizon, batch_size, max_steps, CPU
    )


def test_a_batch_is_scaled_rows():
    panel = panel_of()
    source = source_of(panel)
    scale = source.scale
    numbers = np.array([0, 23, 60])
    batch = source.take(numbers)
    series, origins = source.windows[numbers]
    assert list(series) == [0, 1, 1]
    for k, (i, p) in enumerate(zip(series, origins)):
        a = panel.indptr[i]
        y = (panel.targets - scale.target_loc[i]) / scale.target_scale[i]
        x = (panel.known - scale.known_loc) / scale.known_scale
        z = (panel.past - scale.past_loc) / scale.past_scale
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
    panel = panel_of()
    panel.past[:, 0] = np.arange(75)  # names each row
    source = source_of(panel, batch_size=9)

    def taken(seed):
        batches = list(source.epoch(torch.Generator().manual_seed(seed)))
        assert len(batches) == len(source) == -(-len(source.windows) // 9)
        last = torch.cat([batch.inputs.past[:, -1, 0] for batch in batches]).numpy()
        return np.rint(last * source.scale.past_scale[0] + source.scale.past_loc[0])

    first = taken(0)
    series, origins = source.windows[np.arange(len(source.windows))]
    np.testing.assert_array_equal(np.sort(first), panel.indptr[series] + origins - 1)
    np.testing.assert_array_equal(taken(0), first)
    assert not np.array_equal(taken(1), first)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_scaled_beforehand_give_the_same_bits(dtype, order, monkeypatch):
    panel = panel_of((30, 45, 10), dtype=dtype)
    panel = dataclasses.replace(
        panel,
        **{name: np.asarray(getattr(panel, name), order=order) for name in ("targets", "known")},
    )
    monkeypatch.setattr(source_module, "_CHUNK", 7)
    ready = source_of(panel)
    assert ready._rows is not None
    monkeypatch.setattr(source_module, "_MOST_BYTES", 4 * 3 * 75)
    anew = source_of(panel)
    assert anew._rows is None
    numbers = np.array([0, 23, 60, 25])
    for ours, theirs in zip(flat(ready.take(numbers)), flat(anew.take(numbers))):
        assert ours.dtype == torch.float32
        np.testing.assert_array_equal(ours, theirs)


def test_a_window_that_leaves_its_series_is_missing_there():
    """Rows of the neighbouring series must not stand in for those that are not there."""
    panel = panel_of()
    source = source_of(panel)
    early = WindowIndex.between(np.full(2, 3), panel.lengths, 3)
    other = WindowSource(panel, early, source.scale, None, 5, 3, 8, 100, CPU, like=source)
    assert other._rows is source._rows
    numbers = np.array([0, int(early.counts[0])])  # the first of each series
    batch = other.take(numbers)
    assert torch.isnan(batch.inputs.targets[:, :2]).all()
    inside = source.take(np.array([0, int(source.windows.counts[0])]))
    np.testing.assert_array_equal(batch.inputs.targets[:, 4], inside.inputs.targets[:, 2])


def flat(batch):
    return [*batch.inputs, batch.truth]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_a_gpu_is_the_same_batch(monkeypatch):
    panel = panel_of()
    source = source_of(panel)
    numbers = np.array([0, 23, 60, 25])
    gpu = torch.device("cuda")
    for share in (1.0, 0.0):  # all rows on the device, and batches sent there
        monkeypatch.setattr(source_module, "_SHARE", share)
        other = WindowSource(panel, source.windows, source.scale, None, 5, 3, 8, 100, gpu)
        assert (other._rows is None) == (share == 0.0)
        for ours, theirs in zip(flat(other.take(numbers)), flat(source.take(numbers))):
            assert ours.device.type == "cuda"
            np.testing.assert_array_equal(ours.cpu(), theirs)


@pytest.mark.parametrize("max_steps", [1, 4])
def test_an_epoch_of_very_many_windows_is_cut(max_steps):
    source = source_of(panel_of((300, 300)), batch_size=16, max_steps=max_steps)
    batches = list(source.epoch(torch.Generator().manual_seed(0)))
    assert len(batches) == len(source) == max_steps
    assert all(len(batch.truth) == 16 for batch in batches)


def test_windows_spread_evenly_cover_all():
    source = source_of(panel_of())
    few = source.windows.spread(5)
    assert len(few) == 5
    assert np.diff(few).max() - np.diff(few).min() <= 1
    for numbers, batches in (
        (np.arange(len(source.windows)), source.evenly(1000, 7)),
        (few, source.evenly(5, 2)),
    ):
        parts = [flat(batch) for batch in batches]
        for ours, theirs in zip(zip(*parts), flat(source.take(numbers))):
            np.testing.assert_array_equal(torch.cat(ours), theirs)


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_scales_of_very_large_and_very_small_values(unit):
    panel = panel_of()
    plain = Scale.of(panel)
    scaled = Scale.of(dataclasses.replace(panel, targets=panel.targets * unit))
    np.testing.assert_allclose(scaled.target_loc / unit, plain.target_loc)
    np.testing.assert_allclose(scaled.target_scale / unit, plain.target_scale)


class Clock:
    """Stands for the calendar's phases: the origin, and its series."""

    size = 2

    def at(self, panel, series, origins):
        return np.stack([origins, 100 * series], axis=1).astype(float)


@pytest.mark.parametrize("ready", [True, False])
def test_the_calendars_phases_stand_beside_the_static_columns(ready, monkeypatch):
    panel = panel_of()
    monkeypatch.setattr(source_module, "_MOST_BYTES", 1 << 24 if ready else 0)
    source = source_of(panel)
    source.phases = Clock()
    numbers = np.array([0, 23, 60])
    series, origins = source.windows[numbers]
    expected = np.column_stack([source.scale.static(panel.static[series]), origins, 100 * series])
    np.testing.assert_allclose(source.take(numbers).inputs.static, expected, rtol=1e-6)
    same = static_inputs(panel, source.scale, source.phases, series, origins)
    np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize("ready", [True, False])
def test_a_stretch_has_static_inputs_for_each_of_its_windows(ready, monkeypatch):
    panel = panel_of()
    monkeypatch.setattr(source_module, "_MOST_BYTES", 1 << 24 if ready else 0)
    plain = source_of(panel)
    source = WindowSource(
        panel,
        plain.windows.later(4),
        plain.scale,
        Clock(),
        9,  # the look-back of the first window begins where the stretch does
        3,
        8,
        100,
        CPU,
        offsets=np.arange(-4, 1, 2),
    )
    batch = source.take(np.array([0, 30]))
    series, origins = source.windows[np.array([0, 30])]
    assert origins[0] - 4 == 5
    assert batch.inputs.targets.shape == (2, 9, 2)
    clock = batch.inputs.static[:, 1:].reshape(2, 3, 2)
    np.testing.assert_array_equal(clock[..., 0], origins[:, None] + [-4, -2, 0])
    np.testing.assert_array_equal(clock[..., 1], np.repeat(100 * series, 3).reshape(2, 3))


@pytest.mark.parametrize("ready", [True, False])
def test_the_windows_of_a_short_series_are_masked(ready, monkeypatch):
    """Of 6 rows beside 45, with a look-back of 20: nothing of the neighbour is read."""
    panel = panel_of((45, 6, 40))
    panel.targets[:, 0] = panel.past[:, 0] = panel.known[:, 0] = np.arange(91)
    monkeypatch.setattr(source_module, "_MOST_BYTES", 1 << 24 if ready else 0)
    windows = WindowIndex.training(panel.lengths, np.zeros(3, dtype=int), 20, 3)
    assert list(windows.counts) == [23, 3, 18]
    scale = Scale.of(panel, per_series=False)
    source = WindowSource(panel, windows, scale, None, 20, 3, 8, 100, CPU)
    batch = source.take(np.array([23, 24, 25]))
    back = np.arange(20)
    for k, origin in enumerate((1, 2, 3)):
        own = 45 + origin - 20 + back
        rows = np.where(own < 45, np.nan, own)
        np.testing.assert_array_equal(batch.inputs.targets[k, :, 0], rows)
        for name in ("past", "known"):
            found = getattr(batch.inputs, name)[k, :, 0] * getattr(scale, f"{name}_scale")[0]
            found = found + getattr(scale, f"{name}_loc")[0]
            np.testing.assert_allclose(found, rows, rtol=1e-4)
        np.testing.assert_array_equal(batch.truth[k, :, 0], 45 + origin + np.arange(3))
