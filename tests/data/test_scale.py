"""Scales of many series at once against moments taken by hand, one series at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnforecast.data import scale as module
from rnnforecast.data.panel import Panel
from rnnforecast.data.roles import Column
from rnnforecast.data.scale import Scale


def panel_of(lengths=(30, 45), seed=0, dtype=np.float64, missing=0.1):
    rng = np.random.default_rng(seed)
    n = sum(lengths)

    def columns(k, scale):
        values = 100 + scale * rng.normal(size=(n, k))
        return np.where(rng.random((n, k)) < missing, np.nan, values).astype(dtype)

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


def literal(column, still=1.0, none=1.0):
    """Mean and deviation; 0 and ``none`` where nothing is seen, ``still`` where nothing changed."""
    seen = column[~np.isnan(column)].astype(np.longdouble)
    if not len(seen):
        return 0.0, none
    spread = float(np.sqrt(np.mean((seen - seen.mean()) ** 2)))
    return float(seen.mean()), spread if spread > 1e-12 * abs(float(seen.mean())) else still


@pytest.mark.parametrize("rows", [1 << 20, 7])
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(sum),
    seed=st.integers(0, 10**6),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    single=st.booleans(),
)
def test_moments_of_each_series(rows, lengths, seed, missing, single):
    panel = panel_of(lengths, seed, np.float32 if single else np.float64, missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        scale = Scale.of(panel)
        fortran = dataclasses.replace(panel, targets=np.asfortranarray(panel.targets))
        np.testing.assert_array_equal(Scale.of(fortran).target_scale, scale.target_scale)
    for i in range(panel.n_series):
        for j in range(2):
            loc, spread = literal(panel.targets[panel.series(i), j])
            np.testing.assert_allclose(scale.target_loc[i, j], loc, rtol=1e-12)
            np.testing.assert_allclose(scale.target_scale[i, j], spread, rtol=1e-6)
    for name in ("past", "known", "static"):
        for j, column in enumerate(getattr(panel, name).T):
            loc, spread = literal(column, np.inf, np.nan)
            np.testing.assert_allclose(
                getattr(scale, f"{name}_loc")[j], loc, rtol=1e-12, atol=1e-12
            )
            np.testing.assert_allclose(getattr(scale, f"{name}_scale")[j], spread, rtol=1e-4)


def test_extreme_series_beside_others():
    panel = panel_of((20, 20, 20, 20), missing=0.0)
    plain = Scale.of(panel)
    units = np.array([1e200, 1e-200, 1.0, 1.0])
    targets = panel.targets * np.repeat(units, 20)[:, None]
    targets[60:] = 1e6 + 0.1
    scaled = Scale.of(dataclasses.replace(panel, targets=targets))
    np.testing.assert_allclose(scaled.target_loc[:3] / units[:3, None], plain.target_loc[:3])
    np.testing.assert_allclose(scaled.target_scale[:3] / units[:3, None], plain.target_scale[:3])
    assert (scaled.target_scale[3] == 1).all()
    assert Scale.of(panel, per_series=False).target_loc.shape == (4, 2)
    assert (Scale.of(panel, per_series=False).target_scale == 1).all()


@pytest.mark.parametrize("per_series", [True, False])
def test_new_series_are_measured_and_old_ones_stay(per_series):
    old, whole = panel_of((30, 45)), panel_of((31, 45, 9, 12), seed=1)
    scale = Scale.of(old, per_series)
    grown = scale.following(whole)
    np.testing.assert_array_equal(grown.target_loc[:2], scale.target_loc)
    np.testing.assert_array_equal(
        grown.target_scale[2:], Scale.of(whole, per_series).target_scale[2:]
    )
    assert grown.known_loc is scale.known_loc
    assert scale.following(old) is scale
    other = scale.on(whole)
    np.testing.assert_array_equal(other.target_loc, Scale.of(whole, per_series).target_loc)
    np.testing.assert_array_equal(other.past_scale, scale.past_scale)
    values = np.random.default_rng(0).normal(size=(3, 4, 2))
    np.testing.assert_allclose(scale.known(values) * scale.known_scale + scale.known_loc, values)
    for name, width in (("past", 1), ("static", 1)):
        part = values[..., :width]
        loc, spread = getattr(scale, f"{name}_loc"), getattr(scale, f"{name}_scale")
        np.testing.assert_array_equal(getattr(scale, name)(part), (part - loc) / spread)


def test_codes_of_categories_are_left_as_they_are():
    panel = panel_of()
    kinds = [("y", "target"), ("z", "target"), ("p", "past"), ("k", "known"), ("c", "known")]
    columns = tuple(Column(name, role) for name, role in kinds)
    shop = Column("shop", "static", "category", ("a", "b"))
    columns = (*columns[:4], Column("c", "known", "category", ("x",)), shop)
    scale = Scale.of(dataclasses.replace(panel, columns=columns))
    plain = Scale.of(panel)
    assert scale.known_loc.tolist() == [plain.known_loc[0], 0.0]
    assert scale.known_scale.tolist() == [plain.known_scale[0], 1.0]
    assert (scale.static_loc.tolist(), scale.static_scale.tolist()) == ([0.0], [1.0])
