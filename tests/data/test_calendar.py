"""Calendars against pandas' own date ranges: steps, stamps after, seasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnforecast.data.calendar import infer_calendar
from rnnforecast.exceptions import DataError

NY = "America/New_York"
HOLIDAYS = pd.offsets.CustomBusinessDay(holidays=["2024-01-15", "2024-02-19", "2024-03-29"])


def hours_of_trade(days):
    return pd.DatetimeIndex([d + pd.Timedelta(h, "h") for d in days for h in range(9, 16)])


# name -> (all stamps as pandas makes them, how many belong to the past, gaps in it, invents rows)
GRIDS = {
    "hourly": (pd.date_range("2024-01-01", periods=90, freq="h"), 60, (), True),
    "hourly with gaps": (pd.date_range("2024-01-01", periods=400, freq="h"), 350, (5, 6, 99), True),
    "ten minutes": (pd.date_range("2024-01-01", periods=90, freq="10min"), 60, (3,), True),
    "seconds": (pd.date_range("2024-01-01", periods=90, freq="s"), 60, (3, 7), True),
    "hourly over a summer time change": (
        pd.date_range("2024-03-08", periods=90, freq="h", tz=NY),
        40,
        (7,),
        True,
    ),
    "hourly over a winter time change": (
        pd.date_range("2024-11-01", periods=90, freq="h", tz=NY),
        40,
        (),
        True,
    ),
    "daily": (pd.date_range("2024-01-01", periods=70, freq="D"), 50, (), True),
    "daily with gaps": (pd.date_range("2024-01-01", periods=70, freq="D"), 50, (3, 17, 18), True),
    "daily in a zone into summer time": (
        pd.date_range("2024-03-01", periods=30, freq="D", tz=NY),
        8,
        (),
        True,
    ),
    "daily in a zone with gaps into winter time": (
        pd.date_range("2024-10-20", periods=40, freq="D", tz=NY),
        12,
        (3, 5),
        True,
    ),
    "daily in a zone with gaps over summer time": (
        pd.date_range("2024-03-01", periods=60, freq="D", tz=NY),
        40,
        (3, 15, 16),
        True,
    ),
    "weekly": (pd.date_range("2024-01-02", periods=40, freq="W-TUE"), 30, (), True),
    "weekly with gaps": (pd.date_range("2024-01-02", periods=40, freq="W-TUE"), 30, (4, 9), True),
    "month starts": (pd.date_range("2020-01-01", periods=40, freq="MS"), 30, (), True),
    "month starts with gaps": (pd.date_range("2020-01-01", periods=40, freq="MS"), 30, (4,), True),
    "month ends": (pd.date_range("2020-01-31", periods=40, freq="ME"), 30, (), True),
    "month ends with gaps": (pd.date_range("2020-01-31", periods=40, freq="ME"), 30, (1, 7), True),
    "quarters with gaps": (pd.date_range("2010-01-01", periods=40, freq="QS"), 30, (7, 8), True),
    "quarter ends": (pd.date_range("2010-01-01", periods=40, freq="QE"), 30, (), True),
    "years with gaps": (pd.date_range("1980-01-01", periods=40, freq="YS"), 30, (7,), True),
    "month starts in a zone": (
        pd.date_range("2023-01-01", periods=40, freq="MS", tz=NY),
        30,
        (6,),
        True,
    ),
    "periods": (pd.period_range("2020-01", periods=40, freq="M"), 30, (3,), True),
    "periods of two months": (pd.period_range("2020-01", periods=40, freq="2M"), 30, (3,), True),
    "counted": (pd.RangeIndex(40), 30, (), True),
    "every fourth": (pd.RangeIndex(100, 260, 4), 30, (), True),
    "integers with gaps": (pd.Index(np.arange(0, 120, 3)), 30, (2, 11), True),
    "business days": (pd.bdate_range("2024-01-01", periods=90), 70, (), False),
    "business days with holidays": (pd.bdate_range("2024-01-02", periods=90), 70, (9, 33), False),
    "opening hours": (hours_of_trade(pd.bdate_range("2024-01-01", periods=60)), 300, (), False),
    "opening hours with a day off": (
        hours_of_trade(pd.bdate_range("2024-01-01", periods=60)),
        300,
        tuple(range(70, 77)),
        False,
    ),
    "opening hours in a zone": (
        hours_of_trade(pd.bdate_range("2024-02-01", periods=60, tz=NY)),
        150,
        (20, 21),
        False,
    ),
}


def past_of(name):
    stamps, n, gaps, _ = GRIDS[name]
    return stamps[:n].delete(list(gaps))


@pytest.mark.parametrize("name", GRIDS)
def test_stamps_that_follow_are_those_of_pandas(name):
    stamps, n, _, invents = GRIDS[name]
    past = past_of(name)
    calendar = infer_calendar(past)
    future = calendar.after(past[-1], len(stamps) - n)
    assert list(future) == list(stamps[n:])
    if isinstance(past, pd.DatetimeIndex):  # a panel gives stamps the resolution of its own
        future = future.as_unit(past.unit)
    assert future.dtype == past.dtype
    assert calendar.own_grid is not invents


@pytest.mark.parametrize("name", GRIDS)
def test_steps_count_the_grid(name):
    stamps, n, _, invents = GRIDS[name]
    past = past_of(name)
    calendar = infer_calendar(past)
    later = stamps[n:]
    np.testing.assert_array_equal(calendar.steps(past[-1], later), np.arange(1, len(later) + 1))
    # any order, any subset
    chosen = [7, 2, 2, 5]
    np.testing.assert_array_equal(calendar.steps(past[-1], later[chosen]), np.asarray(chosen) + 1)
    if invents:
        places = calendar.steps(past[0], past)
        np.testing.assert_array_equal(places, stamps[:n].get_indexer(past))
        np.testing.assert_array_equal(calendar.steps(past[-1], past), places - (n - 1))


@pytest.mark.parametrize("name", [name for name in GRIDS if GRIDS[name][3]])
def test_one_missing_step_moves_the_rest_by_one(name):
    stamps, n, _, _ = GRIDS[name]
    past = past_of(name)
    calendar = infer_calendar(past)
    later = stamps[n:].delete(3)
    np.testing.assert_array_equal(
        calendar.steps(past[-1], later), np.delete(np.arange(1, len(stamps) - n + 1), 3)
    )


def test_freq_given_beats_what_is_inferred():
    past = pd.bdate_range("2024-01-02", periods=10).delete(4)  # too short to see a week's pattern
    calendar = infer_calendar(past, freq=HOLIDAYS)
    expected = pd.date_range(past[-1], periods=30, freq=HOLIDAYS)
    expected = expected[expected > past[-1]]
    future = calendar.after(past[-1], len(expected))
    assert list(future) == list(expected)
    assert pd.Timestamp("2024-01-15") not in future.normalize()
    np.testing.assert_array_equal(calendar.steps(past[-1], future), np.arange(1, len(expected) + 1))


def test_the_frequency_of_an_index_is_kept():
    past = pd.date_range("2024-01-02", periods=20, freq=HOLIDAYS)
    future = infer_calendar(past).after(past[-1], 40)
    assert list(future) == list(pd.date_range(past[0], periods=60, freq=HOLIDAYS)[20:])


@pytest.mark.parametrize("freq", ["B", HOLIDAYS])
def test_a_weekend_session_is_followed_by_monday_as_step_one(freq):
    calendar = infer_calendar(pd.DatetimeIndex(["2024-01-05", "2024-01-06"]), freq=freq)
    saturday = pd.Timestamp("2024-01-06")
    future = calendar.after(saturday, 4)
    assert future[0] == pd.Timestamp("2024-01-08")
    np.testing.assert_array_equal(calendar.steps(saturday, future), [1, 2, 3, 4])


def test_a_weekend_session_on_an_inferred_trading_week():
    days = pd.bdate_range("2024-01-02", periods=60).delete([9, 33])
    days = days.append(pd.DatetimeIndex([days[-1] + pd.offsets.Week(weekday=5)]))
    calendar = infer_calendar(days)
    future = calendar.after(days[-1], 6)
    assert list(future) == list(pd.bdate_range(days[-1], periods=6))
    np.testing.assert_array_equal(calendar.steps(days[-1], future), np.arange(1, 7))
    # a row that falls between two slots is never a step of the past
    assert calendar.steps(days[-2], days[-1:])[0] >= 1


def test_irregular_rows_are_their_own_grid():
    rng = np.random.default_rng(0)
    past = pd.DatetimeIndex(np.sort(rng.integers(0, 10**15, 50)))
    calendar = infer_calendar(past)
    assert calendar.own_grid
    median = int(np.median(np.diff(past.asi8)))
    future = calendar.after(past[-1], 5)
    np.testing.assert_array_equal(future.asi8, past.asi8[-1] + median * np.arange(1, 6))
    np.testing.assert_array_equal(calendar.steps(past[-1], future), np.arange(1, 6))
    # one nanosecond after the cutoff is already in the future
    assert calendar.steps(past[-1], past[-1:] + pd.Timedelta(1, "ns"))[0] == 1


@pytest.mark.parametrize(
    ("past", "other"),
    [
        (pd.date_range("2024-01-01", periods=9, freq="h"), pd.Timestamp("2024-01-02 00:30")),
        (pd.date_range("2024-01-01", periods=9, freq="MS"), pd.Timestamp("2025-01-02")),
        (pd.RangeIndex(0, 40, 4), 42),
    ],
)
def test_a_stamp_off_the_grid_is_named(past, other):
    calendar = infer_calendar(past)
    with pytest.raises(DataError, match="is not on the grid") as caught:
        calendar.steps(past[-1], pd.Index([other]))
    assert str(other) in str(caught.value)
    assert "freq=" in str(caught.value)


def test_one_stamp_says_nothing_and_bad_offsets_are_refused():
    with pytest.raises(DataError, match="pass freq="):
        infer_calendar(pd.DatetimeIndex(["2024-01-01"]))
    one = infer_calendar(pd.DatetimeIndex(["2024-01-01"]), freq="h")
    assert one.after(pd.Timestamp("2024-01-01"), 1)[0] == pd.Timestamp("2024-01-01 01:00")
    with pytest.raises(DataError, match="is not a pandas offset"):
        infer_calendar(pd.date_range("2024", periods=5), freq="fortnightly")
    with pytest.raises(DataError, match="DatetimeIndex, PeriodIndex or integers"):
        infer_calendar(pd.Index(["a", "b"]))


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("s", 3600),
        ("30s", 120),
        ("min", 1440),
        ("10min", 144),
        ("15min", 96),
        ("h", 24),
        ("2h", 12),
        ("12h", 2),
        ("D", 7),
        ("B", 5),
        ("C", 5),
        ("W", 52),
        ("W-TUE", 52),
        ("SMS", 24),
        ("MS", 12),
        ("ME", 12),
        ("BME", 12),
        ("2MS", 6),
        ("QS", 4),
        ("QE", 4),
        ("YS", 1),
        ("YE", 1),
        ("bh", 8),
    ],
)
def test_default_seasonality(freq, season):
    assert infer_calendar(pd.date_range("2024", periods=30, freq=freq)).season == season


@pytest.mark.parametrize(("freq", "season"), [("M", 12), ("Q", 4), ("Y", 1), ("W", 52), ("h", 24)])
def test_default_seasonality_of_periods(freq, season):
    index = pd.period_range("2024-01-01", periods=30, freq=freq)
    assert infer_calendar(index).season == season


def test_default_seasonality_of_opening_hours_is_a_day():
    assert infer_calendar(past_of("opening hours with a day off")).season == 7
    assert infer_calendar(past_of("opening hours")).season == 7
    assert infer_calendar(past_of("business days with holidays")).season == 5
    assert infer_calendar(pd.RangeIndex(30)).season == 1


@settings(max_examples=60, deadline=None)
@given(
    minutes=st.sampled_from([1, 5, 15, 30, 60, 120, 360, 1440, 10080]),
    missing=st.sets(st.integers(1, 38), max_size=12),
    start=st.datetimes(pd.Timestamp("2000-01-01"), pd.Timestamp("2030-01-01")),
)
def test_fixed_intervals_with_any_gaps(minutes, missing, start):
    full = pd.date_range(start, periods=60, freq=f"{minutes}min")
    past = full[:40].delete(sorted(missing))
    calendar = infer_calendar(past)
    if calendar.own_grid:  # gaps that recur every week are a trading pattern
        assert len(missing) > 0
        return
    future = calendar.after(past[-1], 20)
    steps = calendar.steps(past[0], past.append(future))
    interval = (future[0] - past[-1]).value
    np.testing.assert_array_equal(
        steps, (past.append(future) - past[0]).as_unit("ns").asi8 // interval
    )
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("hour", [0, 6])
def test_one_day_of_the_month_with_a_gap(hour):
    whole = pd.DatetimeIndex(
        [pd.Timestamp(2020 + k // 12, k % 12 + 1, 15, hour) for k in range(24)]
    )
    calendar = infer_calendar(whole[:20].delete(4))
    assert calendar.season == 12
    np.testing.assert_array_equal(
        calendar.steps(whole[0], whole[:20].delete(4)), [*range(4), *range(5, 20)]
    )
    assert list(calendar.after(whole[19], 4)) == list(whole[20:])


def test_a_fortnight_of_business_days_with_a_holiday_is_a_trading_calendar():
    stamps = pd.date_range("2020-01-01", periods=14, freq="B").delete(4)
    calendar = infer_calendar(stamps)
    assert calendar.own_grid
    assert list(calendar.after(stamps[-1], 6)) == list(
        pd.date_range("2020-01-21", periods=6, freq="B")
    )


@pytest.mark.parametrize("unit", ["D", "M"])
def test_stamps_that_nanoseconds_cannot_hold_are_an_error(unit):
    past = np.arange(np.datetime64("1600", unit), np.datetime64("1604", unit))
    with pytest.raises(DataError, match="the years 1677 to 2262.*PeriodIndex"):
        infer_calendar(pd.DatetimeIndex(past.astype("datetime64[s]")))
    last = pd.date_range(end="2262-04-10", periods=30, freq="D")
    with pytest.raises(DataError, match="5 steps after 2262-04-10"):
        infer_calendar(last).after(last[-1], 5)


def test_integers_take_no_offset():
    with pytest.raises(DataError, match="freq must be an integer >= 1. Got 'h'"):
        infer_calendar(pd.RangeIndex(9), freq="h")


@pytest.mark.parametrize("name", GRIDS)
def test_one_later_stamp_is_the_last_of_those_after(name):
    stamps = GRIDS[name][0]
    calendar = infer_calendar(stamps)
    for n in (1, 2, 3, 25):
        later = calendar.after(stamps[0], n)
        assert calendar.shift(stamps[0], np.array([n]))[0] == later[-1]
    assert calendar.shift(stamps[0], np.array([0]))[0] == stamps[0]


@pytest.mark.parametrize("every", ["1us", "500ms", "7s", "15min", "90min", "h", "23h"])
@pytest.mark.parametrize("tz", [None, "UTC", NY])
def test_stamps_after_carry_the_frequency_that_pandas_infers(every, tz):
    stamps = pd.date_range("2024-03-08", periods=9, freq=every, tz=tz)
    later = infer_calendar(stamps[:5].as_unit("us")).after(stamps[4], 4)
    assert later.equals(stamps[5:])
    assert later.freq == pd.DatetimeIndex(list(later), freq="infer").freq


# -- many series at once, against one at a time ----------------------------------------------------


def literal_steps(calendar, origins, stamps):
    return [calendar.steps(a, stamps[[k]])[0] for k, a in enumerate(origins)]


def literal_shift(calendar, origins, steps):
    return [calendar.after(a, n)[-1] if n else a for a, n in zip(origins, steps)]


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_steps_and_stamps_of_many_series_are_those_of_each(name, seed):
    stamps = GRIDS[name][0]
    calendar = infer_calendar(past_of(name))
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, len(stamps), (2, 12))
    if not GRIDS[name][3]:
        a, b = np.minimum(a, b), np.maximum(a, b)
    found = calendar.steps(stamps[a], stamps[b])
    np.testing.assert_array_equal(found, literal_steps(calendar, stamps[a], stamps[b]))
    np.testing.assert_array_equal(found, b - a)  # as pandas' own range counts
    # one origin for all of them
    np.testing.assert_array_equal(
        calendar.steps(stamps[a[0]], stamps[b]),
        [calendar.steps(stamps[a[0]], stamps[[k]])[0] for k in b],
    )
    ahead = rng.integers(0, 20, 12)
    later = calendar.shift(stamps[a], ahead)
    assert list(later) == literal_shift(calendar, stamps[a], ahead)
    inside = a + ahead < len(stamps)
    assert list(later[inside]) == list(stamps[(a + ahead)[inside]])
    assert list(calendar.shift(stamps[a[0]], ahead)) == literal_shift(
        calendar, stamps[a[[0] * 12]], ahead
    )


def day_of_month(day, hour=0):
    return pd.DatetimeIndex(
        [pd.Timestamp(2020 + k // 12, k % 12 + 1, day, hour) for k in range(40)]
    )


MIXED = {  # series whose grids differ, on one offset
    "months at several hours": ("MS", [day_of_month(1, 0), day_of_month(1, 6)]),
    "two months, of either parity": ("2MS", [day_of_month(1)[::2], day_of_month(1)[1::2]]),
    "any day of the month": (
        pd.DateOffset(months=1),
        [day_of_month(3), day_of_month(17, 8), day_of_month(28)],
    ),
    "business days at several hours": (
        "B",
        [pd.bdate_range("2024-01-01 09:30", periods=40), pd.bdate_range("2024-01-03", periods=40)],
    ),
    "business hours": ("bh", [pd.date_range("2024-01-02 09:00", periods=40, freq="bh")]),
    "two business days": ("2B", [pd.date_range("2024-01-02", periods=40, freq="2B")]),
    "hours from any minute": (
        "h",
        [pd.date_range(f"2024-01-01 00:{m}", periods=40, freq="h") for m in (10, 25)],
    ),
}


@pytest.mark.parametrize("name", MIXED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_series_on_grids_of_their_own(name, seed):
    freq, grids = MIXED[name]
    calendar = infer_calendar(grids[0], freq)
    rng = np.random.default_rng(seed)
    which, a = rng.integers(0, len(grids), 12), rng.integers(0, 10, 12)
    b = a + rng.integers(0, 10, 12)
    origins = pd.DatetimeIndex([grids[g][k] for g, k in zip(which, a)])
    stamps = pd.DatetimeIndex([grids[g][k] for g, k in zip(which, b)])
    np.testing.assert_array_equal(calendar.steps(origins, stamps), b - a)
    np.testing.assert_array_equal(literal_steps(calendar, origins, stamps), b - a)
    assert list(calendar.shift(origins, b - a)) == list(stamps)
    if len(grids) > 1 and not calendar.own_grid:
        other = pd.DatetimeIndex([grids[1 - min(which[5], 1)][19]])
        with pytest.raises(DataError, match=f"{other[0]} is not on the grid") as caught:
            calendar.steps(origins, stamps[:5].append(other).append(stamps[6:]))
        assert caught.value.row == 5


@pytest.mark.parametrize("freq", ["B", HOLIDAYS, None])
def test_weekend_sessions_of_many_series(freq):
    days = pd.bdate_range("2024-01-02", periods=60).delete([9, 33])
    calendar = infer_calendar(days, freq)
    every = pd.date_range("2024-01-20", periods=40)
    a, b = np.divmod(np.arange(40 * 40), 40)
    a, b = a[a <= b], b[a <= b]
    found = calendar.steps(every[a], every[b])
    np.testing.assert_array_equal(found, literal_steps(calendar, every[a], every[b]))
    assert (found[b > a] > 0).all()
    later = calendar.shift(every.repeat(5), np.tile(np.arange(1, 6), 40))
    for k, day in enumerate(every):
        assert list(later[5 * k : 5 * k + 5]) == list(calendar.after(day, 5))
        np.testing.assert_array_equal(calendar.steps(day, later[5 * k : 5 * k + 5]), range(1, 6))
