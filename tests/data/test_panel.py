"""Frames read into panels: what goes in comes back, whatever it was written on."""

from __future__ import annotations

import dataclasses
import pickle
from contextlib import nullcontext

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from rnnforecast import NaiveForecaster
from rnnforecast.data.frames import copies_on_write, numeric, read_table, read_targets
from rnnforecast.data.panel import Panel
from rnnforecast.data.reading import read_fit, read_history
from rnnforecast.data.roles import resolve_roles
from rnnforecast.exceptions import DataError

OWNER = "Someone"
PANDAS_3 = int(pd.__version__.split(".")[0]) > 2


def panel_of(
    X, *, targets=None, past=(), known=(), static=(), series_id=None, time=None, freq=None
):
    table = read_table(OWNER, X, series_id, time)
    targets = list(table.frame.columns) if targets is None else targets
    parts = [numeric(OWNER, table.frame, list(c)) for c in (targets, past, known, static)]
    return Panel.build(OWNER, table.keys, *parts, freq)


def long_frame(lengths, freq="h", seed=0):
    """Series of several lengths below one another, with one column that names its row."""
    rng = np.random.default_rng(seed)
    parts = []
    for k, n in enumerate(lengths):
        stamps = pd.date_range("2024-01-01", periods=n, freq=freq) + k * pd.Timedelta(1, "D")
        parts.append(
            pd.DataFrame(
                {
                    "id": f"s{k}",
                    "when": stamps,
                    "y": rng.normal(size=n),
                    "x": rng.normal(size=n),
                    "area": float(10 + k),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


ROLES = {"targets": ["y"], "known": ["x"], "static": ["area"]}


def check_against(panel, frame):
    """Every series of ``panel`` holds the rows of ``frame``, in time order."""
    assert sorted(panel.ids) == sorted(frame["id"].unique())
    for i, name in enumerate(panel.ids):
        own = frame[frame["id"] == name].sort_values("when")
        np.testing.assert_array_equal(panel.targets[panel.series(i), 0], own["y"])
        np.testing.assert_array_equal(panel.known[panel.series(i), 0], own["x"])
        np.testing.assert_array_equal(panel.static[i], own["area"].unique())
        assert list(panel.time_index(i)) == list(own["when"])
        assert panel.lasts()[i] == own["when"].iloc[-1]


# -- every way to write a panel down ---------------------------------------------------------------


def interleaved(frame, seed=1):
    """Rows shuffled between series, each series still in time order."""
    order = np.random.default_rng(seed).permutation(len(frame))
    names = frame["id"].to_numpy()[order]
    place = np.empty(len(frame), dtype=int)
    for name in frame["id"].unique():
        place[np.flatnonzero(names == name)] = np.flatnonzero(frame["id"] == name)
    return frame.iloc[place]


FORMS = {
    "columns": lambda f: (f, {"series_id": "id", "time": "when"}),
    "columns interleaved": lambda f: (interleaved(f), {"series_id": "id", "time": "when"}),
    "multiindex": lambda f: (f.set_index(["id", "when"]), {}),
    "multiindex interleaved": lambda f: (interleaved(f).set_index(["id", "when"]), {}),
    "multiindex with a categorical level": lambda f: (
        f.assign(id=f["id"].astype("category")).set_index(["id", "when"]),
        {},
    ),
    "index of time, column of series": lambda f: (f.set_index("when"), {"series_id": "id"}),
    "index level of time by name": lambda f: (
        f.set_index("when"),
        {"series_id": "id", "time": "when"},
    ),
    "texts as stamps": lambda f: (
        f.assign(when=f["when"].astype(str)),
        {"series_id": "id", "time": "when"},
    ),
    "polars": lambda f: (pl.from_pandas(f), {"series_id": "id", "time": "when"}),
    "polars lazy": lambda f: (pl.from_pandas(f).lazy(), {"series_id": "id", "time": "when"}),
    "pyarrow": lambda f: (pa.Table.from_pandas(f), {"series_id": "id", "time": "when"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_series(form):
    frame = long_frame([30, 41, 26])
    X, keys = FORMS[form](frame)
    panel = panel_of(X, **ROLES, **keys)
    check_against(panel, frame)
    assert panel.is_panel
    assert panel.absent is None


def test_series_stand_in_order_of_appearance_and_unused_levels_are_no_series():
    frame = long_frame([20, 20, 20]).set_index(["id", "when"])
    part = pd.concat([frame.loc[["s2"]], frame.loc[["s0"]]])
    panel = panel_of(part, **ROLES)
    assert list(panel.ids) == ["s2", "s0"]
    rest = frame[frame.index.get_level_values(0) != "s1"]  # the level s1 is still in the index
    assert "s1" in rest.index.levels[0]
    assert list(panel_of(rest, **ROLES).ids) == ["s0", "s2"]


def test_three_levels_are_series_of_pairs():
    frame = long_frame([20, 25]).assign(site=["a"] * 20 + ["b"] * 25)
    panel = panel_of(frame.set_index(["site", "id", "when"]), **ROLES)
    assert list(panel.ids) == [("a", "s0"), ("b", "s1")]
    future = panel.future_frame_index(2)
    assert future.names == ["site", "id", "when"]
    assert future[0][:2] == ("a", "s0")
    assert future[0][2] == frame["when"].iloc[19] + pd.Timedelta(1, "h")


def test_zones_survive_polars_and_pyarrow():
    stamps = pd.date_range("2024-03-09", periods=60, freq="h", tz="America/New_York")
    frame = pd.DataFrame({"when": stamps, "y": np.arange(60.0)})
    for X in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        panel = panel_of(X, time="when")
        assert list(panel.time_index(0)) == list(stamps)
        assert str(panel.time_index(0).tz) == "America/New_York"


def test_nulls_are_unobserved():
    values = [1, None, 3, 4]
    for X in (
        pd.DataFrame({"y": pd.array(values, dtype="Int64")}),
        pl.DataFrame({"y": values}),
        pa.table({"y": values}),
        pd.DataFrame({"y": values}, dtype=object),
    ):
        np.testing.assert_array_equal(panel_of(X).targets[:, 0], [1, np.nan, 3, 4])


# -- gaps ------------------------------------------------------------------------------------------


def test_gaps_become_unobserved_rows_that_are_not_history():
    frame = long_frame([40, 30])
    kept = frame.drop(index=[3, 4, 20, 45])
    panel = panel_of(kept, **ROLES, series_id="id", time="when")
    np.testing.assert_array_equal(panel.lengths, [40, 30])
    np.testing.assert_array_equal(np.flatnonzero(panel.absent), [3, 4, 20, 45])
    expected = frame["y"].to_numpy(copy=True)
    expected[[3, 4, 20, 45]] = np.nan
    np.testing.assert_array_equal(panel.targets[:, 0], expected)
    np.testing.assert_array_equal(np.isnan(panel.known[:, 0]), panel.absent)
    history = panel.history(["y"])
    assert list(history.index) == list(zip(kept["id"], kept["when"]))
    np.testing.assert_array_equal(history["y"], kept["y"])


def test_an_unobserved_value_is_history_and_a_gap_is_not():
    index = pd.date_range("2024-01-01", periods=30, freq="h")
    frame = pd.DataFrame({"y": np.arange(30.0)}, index=index)
    hidden = frame.mask(frame["y"] == 5)
    assert panel_of(hidden).history(["y"]).index.equals(index)
    assert len(panel_of(frame.drop(index[5])).history(["y"])) == 29


def test_no_row_is_invented_on_a_trading_calendar():
    days = pd.bdate_range("2024-01-02", periods=80).delete([9, 30])
    panel = panel_of(pd.DataFrame({"y": np.arange(78.0)}, index=days))
    assert len(panel.targets) == 78
    assert panel.absent is None
    assert panel.time_index(0).equals(days)


def test_series_of_another_frequency_are_named():
    frame = long_frame([60, 20])
    frame.loc[frame["id"] == "s1", "when"] = pd.date_range("2024-01-02", periods=20, freq="17min")
    with pytest.raises(DataError, match=r"'s1'.*is not on the grid"):
        panel_of(frame, **ROLES, series_id="id", time="when")


def test_a_sparse_grid_is_refused_rather_than_filled():
    stamps = pd.DatetimeIndex(["1970-01-01", "2024-01-01"])
    with pytest.raises(DataError, match="pass freq="):
        panel_of(pd.DataFrame({"y": [1.0, 2.0]}, index=stamps), freq="s")


# -- where rows are --------------------------------------------------------------------------------


def test_locate_against_positions_counted_by_hand():
    frame = long_frame([40, 30])
    past = frame[(frame["id"] == "s0") & (frame.index < 33) | (frame["id"] == "s1")]
    past = past[past.index < 60]
    panel = panel_of(past, **ROLES, series_id="id", time="when")
    order = np.random.default_rng(2).permutation(len(frame))
    keys = read_table(OWNER, frame.iloc[order], "id", "when").keys
    series, steps = panel.locate(OWNER, keys)
    np.testing.assert_array_equal(panel.ids[series], frame["id"].iloc[order])
    within = frame.groupby("id").cumcount().iloc[order].to_numpy()
    last = np.where(frame["id"].iloc[order] == "s0", 32, 19)
    np.testing.assert_array_equal(steps, within - last)


def test_locate_names_what_is_wrong():
    index = pd.date_range("2024-01-01", periods=40, freq="h")
    frame = pd.DataFrame({"y": np.arange(40.0)}, index=index)
    panel = panel_of(frame.iloc[10:30].drop(index[15]))

    def locate(part, target=panel):
        return target.locate(OWNER, read_table(OWNER, part).keys)

    with pytest.raises(DataError, match=r"before the training range.*TimeSeriesSplit.*KFold"):
        locate(frame.iloc[:5])
    with pytest.raises(DataError, match=r"inside the training range.*TimeSeriesSplit"):
        locate(frame.iloc[[15]])
    with pytest.raises(DataError, match="time zone"):
        locate(frame.tz_localize("UTC").iloc[35:])
    with pytest.raises(DataError, match="kind seen in fit"):
        locate(frame.reset_index(drop=True))
    many = panel_of(long_frame([30, 30]), **ROLES, series_id="id", time="when")
    with pytest.raises(DataError, match="names no series"):
        locate(frame, many)
    stranger = long_frame([30, 30]).replace({"id": {"s1": "new"}}).set_index(["id", "when"])
    with pytest.raises(DataError, match="series 'new' was not in the data passed to fit"):
        locate(stranger, many)
    monthly = panel_of(
        pd.DataFrame({"y": range(9)}, index=pd.period_range("2024", periods=9, freq="M"))
    )
    with pytest.raises(DataError, match=r"period\[M\].*period\[D\]"):
        locate(
            pd.DataFrame({"y": [0]}, index=pd.period_range("2024-10-01", periods=1, freq="D")),
            monthly,
        )


def test_stamps_of_another_zone_are_the_same_instant():
    index = pd.date_range("2024-03-01", periods=40, freq="h", tz="Europe/Berlin")
    panel = panel_of(pd.DataFrame({"y": np.arange(30.0)}, index=index[:30]))
    later = pd.DataFrame({"y": np.zeros(10)}, index=index[30:].tz_convert("UTC"))
    _, steps = panel.locate(OWNER, read_table(OWNER, later).keys)
    np.testing.assert_array_equal(steps, np.arange(1, 11))


# -- copies and views ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sorted_floats_are_read_without_a_copy(dtype):
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype)
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2024-01-01", periods=30, freq="h")]
    )
    frame = pd.DataFrame(values, index=index, columns=["y", "z"], copy=False)
    panel = panel_of(frame)
    assert panel.targets.dtype == dtype
    assert np.shares_memory(panel.targets, values)
    own = panel.owned()
    assert not np.shares_memory(own.targets, values)
    np.testing.assert_array_equal(own.targets, values)
    array = panel_of(values)
    assert np.shares_memory(array.targets, values)


def test_rows_that_reading_made_are_not_copied_again():
    panel = panel_of(pd.DataFrame({"y": np.arange(9)}))
    assert panel.owned().targets is panel.targets


@pytest.mark.parametrize("as_series", [False, True])
@pytest.mark.parametrize("on_write", [False, True])
def test_rows_that_pandas_copies_on_write_are_shared_until_then(on_write, as_series):
    if on_write != copies_on_write() and PANDAS_3:
        pytest.skip("pandas 3 always copies on write")
    mode = nullcontext() if PANDAS_3 else pd.option_context("mode.copy_on_write", on_write)
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2024-01-01", periods=30, freq="h")]
    )
    with mode:
        frame = pd.DataFrame({"y": np.arange(60.0)}, index=index)
        rows = frame["y"].rename("z") if as_series else frame
        fc = NaiveForecaster().fit(rows)
        assert np.shares_memory(fc.panel_.targets, frame["y"].to_numpy()) == on_write
        expected = fc.history().copy()
        frame.iloc[:40, 0] = -1.0
        assert frame["y"].iloc[0] == -1.0
        pd.testing.assert_frame_equal(fc.history(), expected)
        again = pickle.loads(pickle.dumps(fc))  # noqa: S301
        frame.iloc[40:, 0] = -2.0
        pd.testing.assert_frame_equal(again.history(), expected)


@pytest.mark.parametrize("kind", ["array", "y", "two columns"])
def test_other_rows_of_the_caller_are_copied(kind):
    mode = nullcontext() if PANDAS_3 else pd.option_context("mode.copy_on_write", True)
    with mode:
        y = np.arange(40.0)
        frame = pd.DataFrame({"a": y, "b": -y})
        both = {"array": (y[:, None],), "y": (frame[["b"]], y), "two columns": (frame,)}[kind]
        fc = NaiveForecaster().fit(*both)
        expected = fc.history().copy()
        y[:], frame.iloc[:, :] = 7.0, 8.0
    pd.testing.assert_frame_equal(fc.history(), expected)


# -- refusals --------------------------------------------------------------------------------------


def test_unsorted_and_repeated_stamps_name_series_and_stamp():
    frame = long_frame([30, 30])
    swapped = frame.copy()
    swapped.loc[[40, 41], "when"] = swapped.loc[[41, 40], "when"].to_numpy()
    with pytest.raises(DataError, match=r"series 's1'.*not sorted.*sort_index"):
        panel_of(swapped, **ROLES, series_id="id", time="when")
    twice = frame.copy()
    twice.loc[41, "when"] = twice.loc[40, "when"]
    with pytest.raises(DataError, match=r"series 's1'.*2024-01-02 10:00:00 appears more than once"):
        panel_of(twice, **ROLES, series_id="id", time="when")
    stacked = frame.set_index("when")[["y"]].sort_index()
    with pytest.raises(DataError, match="series_id= or a MultiIndex"):
        panel_of(stacked)


def test_static_columns_must_be_constant_and_there():
    frame = long_frame([30, 30])
    for value in (3.0, np.nan):
        broken = frame.copy()
        broken.loc[30, "area"] = value
        with pytest.raises(DataError, match="series 's1': a static column is missing or changes"):
            panel_of(broken, **ROLES, series_id="id", time="when")


@pytest.mark.parametrize(
    ("X", "error", "text"),
    [
        (None, DataError, "Got None"),
        (np.zeros(5), ValueError, "Expected 2D array, got 1D"),
        (np.zeros((0, 3)), ValueError, "0 sample"),
        (np.zeros((3, 0)), ValueError, "0 feature"),
        (pd.DataFrame({"y": []}), DataError, "0 sample"),
        (pd.DataFrame(index=range(4)), DataError, "0 feature"),
        (sparse.csr_matrix(np.eye(4)), TypeError, "[Ss]parse"),
        (np.eye(4) + 1j, ValueError, "Complex data not supported"),
        (pd.DataFrame({"y": [1j, 2]}), DataError, "Complex data not supported"),
        (
            pd.DataFrame({"y": ["a", "b"]}),
            DataError,
            r"'y' has dtype (object|str).*OneHotEncoder",
        ),
        (pd.DataFrame({"y": ["1", "2"]}), DataError, "column 'y' has dtype (object|str)"),
        (pd.DataFrame({"y": pd.Categorical(["a", "b"])}), DataError, "dtype category"),
        (
            pd.DataFrame({"y": pd.date_range("2024", periods=3)}),
            DataError,
            "dtype datetime64.*expected numbers",
        ),
        (pd.DataFrame({"y": [1.0, np.inf]}), DataError, "infinity.*column 'y', row 1.*NaN"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), DataError, "'a' appears more than once"),
        (pd.DataFrame({"y": [1.0, 2.0]}, index=[0.0, 1.0]), DataError, "float64.*pd.to_datetime"),
        (pd.DataFrame({"y": [1.0, 2.0]}, index=["a", "b"]), DataError, "time="),
        (
            pd.DataFrame({"y": [1.0, 2.0]}, index=pd.DatetimeIndex(["2024-01-01", pd.NaT])),
            DataError,
            "NaT",
        ),
        (
            pd.DataFrame(
                {"y": [1.0, 2.0]},
                index=pd.MultiIndex.from_arrays([["a", None], pd.date_range("2024", periods=2)]),
            ),
            DataError,
            "missing values",
        ),
    ],
)
def test_unusable_input_is_refused(X, error, text):
    with pytest.raises(error, match=text):
        panel_of(X)


def test_key_columns_are_checked():
    frame = long_frame([20, 20])
    with pytest.raises(DataError, match=r"time='date' is not a column.*'when'"):
        panel_of(frame, series_id="id", time="date")
    with pytest.raises(DataError, match=r"'id'.*missing"):
        panel_of(frame.assign(id=frame["id"].where(frame.index != 3)), series_id="id", time="when")
    with pytest.raises(DataError, match=r"'when'.*missing"):
        panel_of(
            frame.assign(when=frame["when"].where(frame.index != 3)), series_id="id", time="when"
        )
    with pytest.raises(DataError, match="cannot be read as time stamps"):
        panel_of(frame.assign(when=["2024-01-01"] * 39 + ["soon"]), series_id="id", time="when")


def test_read_targets():
    values, names, index = read_targets(OWNER, [1, 2, 3], 3)
    assert names == ["y"]
    assert index is None
    np.testing.assert_array_equal(values, [[1], [2], [3]])
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": [3, 4]}, index=[7, 8])
    values, names, index = read_targets(OWNER, frame, 2)
    assert names == ["a", "b"]
    assert list(index) == [7, 8]
    np.testing.assert_array_equal(values, frame)
    assert read_targets(OWNER, pl.Series("load", [1.0, 2.0]), 2)[1] == ["load"]
    with pytest.raises(DataError, match="X has 5 rows, y has 2"):
        read_targets(OWNER, frame, 5)
    with pytest.raises(DataError, match="1-D or 2-D"):
        read_targets(OWNER, np.zeros((2, 2, 2)), 2)
    with pytest.raises(DataError, match="infinity"):
        read_targets(OWNER, [np.inf, 1.0], 2)


# -- roles -----------------------------------------------------------------------------------------


def roles_of(y_names=None, target=None, known=None, static=None):
    table = read_table(OWNER, pd.DataFrame(np.zeros((3, 4)), columns=list("abcd")))
    return resolve_roles(OWNER, table, y_names, target, known, static)


def test_roles():
    roles = roles_of()
    assert (roles.targets, roles.known, roles.past) == (list("abcd"), [], [])
    roles = roles_of(target="b", known=["c"])
    assert (roles.targets, roles.known, roles.past) == (["b"], ["c"], ["a", "d"])
    roles = roles_of(known=["c"], static="a")
    assert (roles.targets, roles.known, roles.static) == (["b", "d"], ["c"], ["a"])
    roles = roles_of(y_names=["y"])
    assert (roles.targets, roles.known, roles.separate_y) == (["y"], list("abcd"), True)
    # the target left in X beside y is no covariate
    roles = roles_of(y_names=["y"], target="b", static="d")
    assert (roles.known, roles.static) == (["a", "c"], ["d"])
    for text in ("b", "c", "'a', 'd'"):
        assert text in str(roles_of(target="b", known=["c"]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "z"}, "target column 'z' is not in X; the columns are"),
        ({"known": ["z"]}, "known column 'z' is not in X"),
        ({"static": "z"}, "static column 'z'"),
        ({"target": "a", "known": "a"}, "'a' is named as target and as known"),
        ({"y_names": ["a"]}, "'a' is in X and in y.*drop it"),
        ({"known": list("abcd")}, "no target column is left"),
    ],
)
def test_roles_that_cannot_be(options, text):
    with pytest.raises(DataError, match=text):
        roles_of(**options)


def test_series_of_different_frequencies_are_refused():
    hours = pd.DataFrame(
        {"y": np.arange(200.0)}, index=pd.date_range("2024", periods=200, freq="h")
    )
    days = pd.DataFrame({"y": np.arange(9.0)}, index=pd.date_range("2024", periods=9, freq="D"))
    panel = pd.concat({"h": hours, "d": days}, names=["id", "time"])
    table = read_table("Someone", panel)
    empty = np.empty((len(panel), 0))
    arrays = (panel.to_numpy(), empty, empty, empty)
    with pytest.raises(DataError, match=r"series 'd' has a row every 24 steps or more of the grid"):
        Panel.build("Someone", table.keys, *arrays)
    on_purpose = Panel.build("Someone", table.keys, *arrays, freq="h")
    np.testing.assert_array_equal(on_purpose.lengths, [200, 8 * 24 + 1])


# -- many series at once, against one at a time ----------------------------------------------------


def bdays(n, start="2024-01-02"):
    return pd.bdate_range(start, periods=n + 3).delete([9, 17, 18])[:n]


CALENDARS = {  # the whole stretch of stamps, whether rows may be left out
    "hours": (pd.date_range("2024-01-01", periods=60, freq="h"), True),
    "hours in a zone": (pd.date_range("2024-03-08", periods=60, freq="h", tz="Europe/Rome"), True),
    "months": (pd.date_range("2015-01-31", periods=60, freq="ME"), True),
    "periods": (pd.period_range("2015-01", periods=60, freq="M"), True),
    "integers": (pd.Index(np.arange(100, 280, 3)), True),
    "trading days": (bdays(60), False),
    "irregular": (
        pd.DatetimeIndex(np.random.default_rng(0).integers(0, 10**15, 60)).sort_values(),
        False,
    ),
}


def ragged(name, seed, n_series=4, gaps=True):
    """A long frame of series that begin and end anywhere on the calendar, rows left out of some."""
    stamps, regular = CALENDARS[name]
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(n_series):
        begin = 0 if k == 0 else int(rng.integers(0, 40))
        end = 55 if k == 0 else int(rng.integers(begin + 3, 60))
        rows = np.arange(begin, end)
        if gaps and regular and k:
            # two neighbours stay: a series with every other row would be refused as a coarser one
            rows = rows[(rng.random(len(rows)) < 0.8) | (rows <= begin + 1) | (rows == end - 1)]
        n = len(rows)
        parts.append(
            pd.DataFrame(
                {
                    "id": f"s{(7 * k) % 5}",
                    "when": stamps[rows],
                    "y": rng.normal(size=n),
                    "x": rng.normal(size=n),
                    "area": float(k),
                    "kind": "ab"[k % 2],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


KEYS = {"series_id": "id", "time": "when"}
GIVEN = {"target": "y", "known": ["x"], "static": ["area", "kind"], **KEYS}


@pytest.mark.parametrize("name", CALENDARS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_index_is_that_of_each_series(name, seed):
    frame = ragged(name, seed)
    panel = read_fit(OWNER, frame, **GIVEN).panel
    if CALENDARS[name][1]:
        check_against_grid(panel, frame, CALENDARS[name][0])
    else:
        check_against(dataclasses.replace(panel, static=panel.static[:, :1]), frame)
    for i, of_one in enumerate(panel.ids):
        expected = [(of_one, stamp) for stamp in panel.time_index(i)]
        rows = panel.row_index()[panel.series(i)]
        assert list(rows) == expected
        ahead = panel.future_index(i, 3)
        assert list(panel.future_frame_index(3)[3 * i : 3 * i + 3]) == [(of_one, s) for s in ahead]
        assert panel.lasts()[i] == panel.lasts()[i] == panel.time_index(i)[-1]
        both = panel.time_index(i).append(ahead)
        some = np.random.default_rng(seed).permutation(len(both))
        assert list(panel.stamps_at(np.full(len(some), i), some)) == list(both[some])
    assert panel.row_index().dtypes.iloc[-1] == frame["when"].dtype
    assert panel.row_index().names == ["id", "when"]


def check_against_grid(panel, frame, stamps):
    for i, name in enumerate(panel.ids):
        own = frame[frame["id"] == name].set_index("when")
        grid = stamps[(stamps >= own.index[0]) & (stamps <= own.index[-1])]
        np.testing.assert_array_equal(panel.targets[panel.series(i), 0], own["y"].reindex(grid))
        np.testing.assert_array_equal(panel.known[panel.series(i), 0], own["x"].reindex(grid))
        assert list(panel.time_index(i)) == list(grid)
        absent = ~grid.isin(own.index)
        found = np.zeros(len(grid), bool) if panel.absent is None else panel.absent[panel.series(i)]
        np.testing.assert_array_equal(found, absent)


@pytest.mark.parametrize("name", CALENDARS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rows_are_located_as_in_each_series(name, seed):
    frame = ragged(name, seed)
    panel = read_fit(OWNER, frame, **GIVEN).panel
    rng = np.random.default_rng(seed)
    ahead = panel.future_frame_index(4)[rng.random(4 * panel.n_series) < 0.7].to_frame(index=False)
    asked = pd.concat([frame[["id", "when"]], ahead], ignore_index=True)
    asked = asked.iloc[rng.permutation(len(asked))]
    series, steps = panel.locate(OWNER, read_table(OWNER, asked.assign(z=0), "id", "when").keys)
    assert list(panel.ids[series]) == list(asked["id"])
    for i in range(panel.n_series):
        both = panel.time_index(i).append(panel.future_index(i, 4))
        own = asked["when"][series == i]
        expected = both.get_indexer(pd.Index(own)) - (panel.lengths[i] - 1)
        np.testing.assert_array_equal(steps[series == i], expected)
    # a row before the first one, and one in a gap
    early = CALENDARS[name][0][:1]
    for i in np.flatnonzero(panel.starts > early[0]):
        row = pd.DataFrame({"id": panel.ids[[i]], "when": early, "z": 0.0})
        with pytest.raises(DataError, match=f"{panel.ids[i]}.*before the training range"):
            panel.locate(OWNER, read_table(OWNER, row, "id", "when").keys)
    if panel.absent is not None:
        gap = panel.row_index()[panel.absent][:1]
        with pytest.raises(DataError, match=f"{gap[0][0]}.*inside the training range"):
            panel.locate(OWNER, read_table(OWNER, pd.DataFrame({"z": 0.0}, index=gap)).keys)


def same_panels(one, two):
    for field in dataclasses.fields(Panel):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif isinstance(a, pd.Index):
            assert list(a) == list(b), field.name
            assert (a.dtype, a.names) == (b.dtype, b.names), field.name
        elif field.name != "calendar":
            assert a == b, field.name


@pytest.mark.parametrize("name", CALENDARS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_appended_rows_of_old_and_new_series_are_as_if_read_at_once(name, seed):
    frame = ragged(name, seed, n_series=5)
    rng = np.random.default_rng(seed)
    sizes = frame.groupby("id", sort=False).size()
    # the first series is there from the start, the last one is new, of the others some rows are
    cut = {name: int(rng.integers(0, n + 1)) for name, n in sizes.items()}
    cut[sizes.index[0]], cut[sizes.index[-1]] = 40, 0
    old = frame.groupby("id").cumcount() < frame["id"].map(cut)
    freq = None
    if name in ("hours", "hours in a zone", "months"):  # however few rows are left
        freq = {"months": "ME"}.get(name, "h")
    first = read_fit(OWNER, frame[old], **GIVEN, freq=freq)
    whole = pd.concat([frame[old], frame[~old]])
    whole = whole.iloc[np.argsort(pd.factorize(whole["id"])[0], kind="stable")]
    expected = read_history(
        OWNER, read_table(OWNER, whole, "id", "when"), None, first.roles, first.panel
    )
    later = frame[~old].iloc[rng.permutation(int((~old).sum()))]
    later = later.iloc[np.argsort(CALENDARS[name][0].get_indexer(later["when"]), kind="stable")]
    order = list(expected.ids)
    table = read_table(OWNER, later, "id", "when")
    grown = first.panel.append(OWNER, table)
    # new series stand in the order in which their rows come
    assert sorted(grown.ids) == sorted(order)
    if list(grown.ids) == order:
        same_panels(grown, expected)
    for i, of_one in enumerate(grown.ids):
        j = order.index(of_one)
        np.testing.assert_array_equal(
            grown.targets[grown.series(i)], expected.targets[expected.series(j)]
        )
        assert list(grown.time_index(i)) == list(expected.time_index(j))
        np.testing.assert_array_equal(grown.static[i], expected.static[j])
    np.testing.assert_array_equal(
        grown.targets[: first.panel.lengths[0], 0], first.panel.targets[first.panel.series(0), 0]
    )


@pytest.mark.parametrize("name", CALENDARS)
def test_rows_without_stamps_follow_on(name):
    frame = ragged(name, 3, n_series=1)
    panel = read_fit(
        OWNER,
        frame.drop(columns=["id"]),
        target="y",
        known="x",
        time="when",
        static=["area", "kind"],
    ).panel
    table = read_table(OWNER, pd.DataFrame({"y": [1.0, 2.0], "x": [3.0, 4.0]}).to_numpy())
    table = dataclasses.replace(table, frame=table.frame.set_axis(["y", "x"], axis=1))
    grown = panel.append(OWNER, table)
    assert list(grown.time_index(0)[-2:]) == list(panel.future_index(0, 2))
    np.testing.assert_array_equal(grown.targets[-2:, 0], [1.0, 2.0])


def test_what_cannot_be_appended_is_named():
    frame = ragged("hours", 0, gaps=False)
    first = read_fit(OWNER, frame, **GIVEN).panel
    ahead = first.future_frame_index(3).to_frame(index=False)
    rows = ahead.assign(y=1.0, x=2.0)

    def append(frame):
        return first.append(OWNER, read_table(OWNER, frame, "id", "when"))

    assert append(rows).n_series == 4
    with pytest.raises(DataError, match=r"series 's2': time stamps are not sorted"):
        append(rows.iloc[[0, 1, 5, 3]])
    with pytest.raises(DataError, match=r"series 's2': time stamp .* appears more than once"):
        append(rows.iloc[[0, 3, 3]])
    old = rows.assign(
        when=rows["when"].where(rows["id"] != "s2", rows["when"] - pd.Timedelta("3h"))
    )
    with pytest.raises(DataError, match=r"is not after the cutoff of series 's2'.*pass new rows"):
        append(old)
    off = rows.assign(
        when=rows["when"].where(rows["id"] != "s2", rows["when"] + pd.Timedelta("3min"))
    )
    with pytest.raises(DataError, match=r"series 's2': time stamp .* is not on the grid"):
        append(off)
    with pytest.raises(
        DataError, match=r"static column 'area' is missing from X, and series 'new' is new"
    ):
        append(rows.replace({"id": {"s2": "new"}}))
    counted = read_table(OWNER, pd.DataFrame({"id": ["new"], "y": [1.0], "x": [1.0]}), "id")
    with pytest.raises(DataError, match=r"series 'new' is new, and its rows have no time stamps"):
        first.append(OWNER, counted)


# -- categories ------------------------------------------------------------------------------------


def shops(**columns):
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2024-01-01", periods=4, freq="D")], names=["id", "time"]
    )
    return pd.DataFrame({"y": np.arange(8.0), **columns}, index=index)


SIZES = pd.CategoricalDtype(["small", "large", "huge"])  # in an order of its own
ROLES_OF_SHOPS = {"target": "y", "known": "promo", "static": "size"}


def test_text_and_categories_are_read_as_codes():
    df = shops(
        promo=["sale", "none", None, "sale", "none", "none", "sale", "sale"],
        size=pd.array(["large"] * 4 + ["small"] * 4, dtype=SIZES),
        weather=[True, False] * 4,
    )
    panel = read_fit(OWNER, df, **ROLES_OF_SHOPS).panel
    named = {column.name: column for column in panel.columns}
    assert [(c.name, c.role, c.kind) for c in panel.columns] == [
        ("y", "target", "number"),
        ("weather", "past", "number"),
        ("promo", "known", "category"),
        ("size", "static", "category"),
    ]
    assert named["promo"].categories == ("none", "sale")
    assert named["size"].categories == ("small", "large", "huge")
    np.testing.assert_array_equal(panel.known[:, 0], [1, 0, np.nan, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(panel.static, [[1], [0]])
    np.testing.assert_array_equal(panel.past[:, 0], [1, 0] * 4)


@pytest.mark.parametrize("kind", ["object", "category", "string", "polars"])
def test_every_kind_of_text_is_a_category(kind):
    df = shops(promo=["sale", "none"] * 4, size=["large"] * 4 + ["small"] * 4)
    if kind == "polars":
        X, keys = pl.from_pandas(df.reset_index()), {"series_id": "id", "time": "time"}
    else:
        X, keys = df.astype({"promo": kind, "size": kind}), {}
    panel = read_fit(OWNER, X, **ROLES_OF_SHOPS, **keys).panel
    assert [c.categories for c in panel.columns] == [(), ("none", "sale"), ("large", "small")]
    np.testing.assert_array_equal(panel.known[:, 0], [1, 0] * 4)


def test_later_rows_have_the_codes_of_fit_and_a_new_category_is_missing():
    df = shops(promo=["sale", "none"] * 4, size=["large"] * 4 + ["small"] * 4)
    fitted = read_fit(OWNER, df, **ROLES_OF_SHOPS)
    later = shops(promo=["gift", "sale"] * 4, size=["tiny"] * 4 + ["small"] * 4)
    later.index = later.index.set_levels(
        [["b", "new"], later.index.levels[1] + pd.Timedelta(4, "D")]
    )
    grown = fitted.panel.append(OWNER, read_table(OWNER, later))
    np.testing.assert_array_equal(grown.known[8:, 0], [np.nan, 1] * 4)
    np.testing.assert_array_equal(grown.static, [[0], [1], [1]])  # that of "b" is the one of fit
    fresh = read_history(OWNER, read_table(OWNER, later), None, fitted.roles, fitted.panel)
    assert list(fresh.ids) == ["b", "new"]
    np.testing.assert_array_equal(fresh.static, [[np.nan], [1]])
    np.testing.assert_array_equal(fresh.known[:, 0], [np.nan, 1] * 4)
    assert fresh.calendar is fitted.panel.calendar


def test_targets_are_numbers_and_so_is_a_column_that_was_one_in_fit():
    df = shops(promo=["sale", "none"] * 4, size=1.0)
    with pytest.raises(DataError, match=r"column 'promo' has dtype (object|str).*expected numbers"):
        read_fit(OWNER, df)
    fitted = read_fit(OWNER, df, **ROLES_OF_SHOPS)
    with pytest.raises(DataError, match=r"column 'size' has dtype (object|str).*expected numbers"):
        read_history(
            OWNER, read_table(OWNER, df.assign(size="big")), None, fitted.roles, fitted.panel
        )
    with pytest.raises(DataError, match="series 'a': a static column is missing or changes"):
        read_fit(OWNER, df.assign(size=["s", "l"] * 4), **ROLES_OF_SHOPS)
    unknown = read_fit(OWNER, df.assign(size=["s"] * 4 + [None] * 4), **ROLES_OF_SHOPS)
    np.testing.assert_array_equal(unknown.panel.static, [[0], [np.nan]])
    with pytest.raises(DataError, match="'promo' has dtype datetime64"):
        read_fit(OWNER, df.assign(promo=pd.Timestamp("2024")), **ROLES_OF_SHOPS)


# -- histories, observations, the memo -------------------------------------------------------------


def test_a_history_is_a_panel_of_its_own_on_the_calendar_of_fit():
    hours = pd.date_range("2024-01-01", periods=40, freq="h")
    fitted = read_fit(OWNER, pd.DataFrame({"y": np.arange(40.0)}, index=hours))
    other = pd.DataFrame({"y": [1.0, 2.0, 3.0]}, index=hours[[3, 5, 6]] + pd.Timedelta(9, "D"))
    fresh = read_history(OWNER, read_table(OWNER, other), None, fitted.roles, fitted.panel)
    np.testing.assert_array_equal(fresh.targets[:, 0], [1, np.nan, 2, 3])
    one = read_history(OWNER, read_table(OWNER, other[:1]), None, fitted.roles, fitted.panel)
    assert one.future_index(0, 1)[0] == other.index[0] + pd.Timedelta(1, "h")
    many = pd.concat({"p": other, "q": other}, names=["id", "time"])
    assert read_history(OWNER, read_table(OWNER, many), None, fitted.roles, fitted.panel).is_panel
    with pytest.raises(DataError, match="kind seen in fit"):
        read_history(
            OWNER, read_table(OWNER, other.reset_index(drop=True)), None, fitted.roles, fitted.panel
        )
    with pytest.raises(DataError, match="series 'q': target 'y' has no observed value"):
        empty = pd.concat({"p": other, "q": other * np.nan}, names=["id", "time"])
        read_history(OWNER, read_table(OWNER, empty), None, fitted.roles, fitted.panel)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_observed_is_a_loop_over_series(lengths, seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": np.repeat(np.arange(len(lengths)), lengths)})
    values = np.where(rng.random((len(frame), 2)) < 0.6, np.nan, 1.0)
    panel = panel_of(frame.assign(y=values[:, 0], z=values[:, 1]), series_id="id")
    low = rng.integers(0, panel.lengths + 1)
    high = rng.integers(0, panel.lengths + 1)
    found = panel.observed(low, high)
    for i in range(panel.n_series):
        own = panel.mask[panel.series(i)][low[i] : high[i]]
        np.testing.assert_array_equal(found[i], own.any(axis=0))


def test_the_memo_is_of_one_object_and_goes_by_value():
    panel = panel_of(long_frame([30, 30]), **ROLES, series_id="id", time="when")
    calls = []

    def make():
        calls.append(1)
        return len(calls)

    assert panel.cached(("a", 1), make) == panel.cached(("a", 1), make) == 1
    assert panel.cached(("a", 2), make) == 2
    again = pickle.loads(pickle.dumps(panel))  # noqa: S301
    for other in (dataclasses.replace(panel), panel.owned(), again):
        assert other.cached(("a", 1), make) > 2
    assert panel.cached(("a", 1), make) == 1
