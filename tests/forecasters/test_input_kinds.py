"""Rows as users have them: without an index, late by a second, with words, masks and marks of y."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import ARIMAForecaster, DeepGRUForecaster, NaiveForecaster
from rnnforecast.exceptions import DataError

DAYS = pd.date_range("2024-01-01", periods=60)
TINY = {"lookback": 6, "hidden_size": 4, "n_layers": 1, "max_epochs": 2, "random_state": 0}


def week(n=60):
    return 10 + 3 * np.sin(2 * np.pi * np.arange(n) / 7) + 0.1 * np.arange(n)


# -- no index --------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_rows_of_a_frame_without_index_follow_on_as_those_of_an_array(library):
    module = pytest.importorskip(library)
    make = module.DataFrame if library == "polars" else module.table
    rng = np.random.default_rng(0)
    columns = {"y": week(), "x": rng.normal(size=60)}
    array = np.column_stack(list(columns.values()))

    def rows(low, high):
        return make({name: values[low:high] for name, values in columns.items()})

    fc = DeepGRUForecaster(**TINY, horizon=3, target="y", known="x").fit(rows(0, 40))
    other = DeepGRUForecaster(**TINY, horizon=3, target=0, known=1).fit(array[:40])
    np.testing.assert_array_equal(fc.predict(rows(40, 43)), other.predict(array[40:43]))
    np.testing.assert_array_equal(fc.forecast(rows(40, 43)), other.forecast(array[40:43]))
    rolled = fc.rolling_forecast(rows(40, 50))
    np.testing.assert_array_equal(rolled, other.rolling_forecast(array[40:50]))
    fc.update(rows(40, 43))
    np.testing.assert_array_equal(fc.history()["y"], columns["y"][:43])


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_containers_of_transformers_of_x_and_y(output):
    pytest.importorskip("polars")
    X, y = pd.DataFrame({"x": np.sin(np.arange(60.0))}, DAYS), pd.Series(week(), DAYS, name="y")
    pipe = make_pipeline(StandardScaler(), ARIMAForecaster(horizon=3))
    model = TransformedTargetRegressor(pipe, transformer=StandardScaler())
    for estimator in [pipe, model] if output == "pandas" else [pipe]:  # scikit-learn wants ndim
        expected = estimator.fit(X[:50], y[:50]).predict(X[50:])
        with sklearn.config_context(transform_output=output):
            found = estimator.fit(X[:50], y[:50]).predict(X[50:])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # dates of y are the time of rows that have none
    assert pipe[-1].cutoff_ == DAYS[49]
    with pytest.raises(DataError, match="different indices"):  # counted rows beside counted ones
        NaiveForecaster().fit(X.set_axis(range(1, 61)), y.reset_index(drop=True))


# -- the index of y --------------------------------------------------------------------------------


def test_later_rows_refuse_a_y_of_other_rows_as_fit_does():
    X, y = pd.DataFrame({"x": 1.0}, DAYS), pd.Series(np.arange(60.0), DAYS, name="y")
    fc = NaiveForecaster(horizon=2).fit(X[:50], y[:50])
    network = DeepGRUForecaster(**TINY, horizon=2).fit(X[:50], y[:50])
    for method in (fc.update, fc.rolling_forecast, network.partial_fit):
        for wrong in (y[50:][::-1], y[:10]):
            with pytest.raises(DataError, match="X and y have different indices: align them"):
                method(X[50:], wrong)
    fc.update(X[50:55], y[50:55]).update(X[55:], y[55:].to_numpy())
    np.testing.assert_array_equal(fc.history()["y"], y)


def test_later_arrays_take_the_dates_of_y_as_in_fit():
    X, y = np.ones((60, 1)), pd.Series(np.arange(60.0), DAYS)
    fc = NaiveForecaster().fit(X[:50], y[:50]).update(X[55:], y[55:])
    assert fc.cutoff_ == DAYS[59]
    assert len(fc.panel_.targets) == 60
    with pytest.raises(DataError, match="not after the cutoff"):
        fc.update(X[55:], y[55:])


# -- rows between two steps ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda **roles: ARIMAForecaster(**roles),
        lambda **roles: DeepGRUForecaster(**TINY, horizon=3, **roles),
    ],
)
@pytest.mark.parametrize("holidays", [[], [9, 33]])  # business days, a pattern of the week
def test_every_row_has_its_own_covariates_whatever_rows_stand_beside_it(make, holidays):
    days = pd.bdate_range("2024-01-01", periods=80)
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    df = pd.DataFrame({"y": 10 + 5 * x + 0.1 * rng.normal(size=80), "x": x}, days)
    fc = make(target="y", known="x").fit(df.drop(days[holidays]))
    every = pd.date_range(days[-1], periods=11)[1:]  # Saturdays and Sundays too
    X = pd.DataFrame({"x": np.linspace(-2.0, 2.0, 10)}, every)
    alone = np.concatenate([fc.predict(X[k : k + 1]) for k in range(10)])
    np.testing.assert_allclose(fc.predict(X), alone, rtol=1e-6)
    np.testing.assert_allclose(fc.predict(X[::-1])[::-1], alone, rtol=1e-6)
    assert len(np.unique(alone.round(3))) == 10
    # the forecast of a step has the covariates of its own day, in any order of the rows
    monday = fc.predict(X[2:3])
    for rows in (X, X[::-1]):
        np.testing.assert_allclose(fc.forecast(rows, horizon=1)["y"], monday, rtol=1e-6)
    with pytest.raises(DataError, match=f"{type(fc).__name__}: X has two rows for the same"):
        fc.forecast(X.iloc[[2, 2]], horizon=1)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_are_late_by_seconds_are_the_nearest_step(seed):
    rng = np.random.default_rng(seed)
    late = pd.to_timedelta(rng.integers(0, 3, 130), unit="s")
    stamps = pd.date_range("2024-01-01", periods=130, freq="h") + late
    x = rng.normal(size=130)
    season = np.sin(np.arange(130) * 2 * np.pi / 24)
    df = pd.DataFrame({"y": season, "x": x}, stamps)
    fc = NaiveForecaster(target="y", strategy="seasonal", seasonality=24).fit(df[:100])
    np.testing.assert_allclose(fc.predict(df[100:]), season[100:], atol=1e-9)
    hook = ARIMAForecaster(target="y", known="x").fit(df[:100])
    alone = np.concatenate([hook.predict(df[k : k + 1]) for k in range(100, 130)])
    np.testing.assert_allclose(hook.predict(df[100:]), alone, rtol=1e-6)


@pytest.mark.parametrize("freq", ["bh", None])
def test_a_late_row_of_a_session_is_the_step_that_it_is_late_for(freq):
    hours = pd.date_range("2024-01-01 09:00", periods=160, freq="bh")  # 9 to 16, Mondays to Fridays
    df = pd.DataFrame({"y": np.arange(160.0)}, hours)
    fc = NaiveForecaster(strategy="drift", horizon=3, freq=freq)
    fc.fit(df if freq else df.drop(hours[[13, 77]]))  # or a pattern of the week with two gaps
    expected = fc.forecast(horizon=20)["y"]
    for late in ("0s", "1s", "25min", "-25min"):
        rows = pd.DataFrame(index=expected.index + pd.Timedelta(late))
        np.testing.assert_allclose(fc.predict(rows), expected)
    tuesday = pd.DataFrame(index=[expected.index[3].normalize() + pd.Timedelta("20h")])
    assert fc.predict(tuesday)[0] in expected.to_list()  # the evening is the next morning
    # a row after the last one is never a row of the past
    soon = pd.DataFrame(index=[df.index[-1] + pd.Timedelta("1s")])
    np.testing.assert_allclose(fc.predict(soon), expected[:1])


# -- columns ---------------------------------------------------------------------------------------


def test_every_column_of_numbers_is_a_target_and_words_are_past_covariates():
    words = np.resize(["sun", "rain", "fog"], 60)
    df = pd.DataFrame({"a": week(), "word": words, "b": week()[::-1]}, DAYS)
    fc = DeepGRUForecaster(**TINY, horizon=3).fit(df[:57])
    assert (fc.roles_.targets, fc.roles_.past) == (["a", "b"], ["word"])
    assert list(fc.forecast().columns) == ["a", "b"]
    assert fc.update(df[57:]).cutoff_ == DAYS[-1]
    mixed = df.assign(b=df["b"].astype(object).mask(df.index == DAYS[3], "12,5"))
    for name, bad in (("word", df[["word"]]), ("b", mixed)):  # no numbers, or a text among them
        with pytest.raises(DataError, match=f"'{name}' has dtype (object|str).*expected numbers"):
            DeepGRUForecaster(**TINY).fit(bad)


def test_a_covariate_may_have_the_name_that_a_y_without_name_would_get():
    X = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60.0) ** 0.5}, DAYS)
    y = pd.Series(week(), DAYS)
    fc = ARIMAForecaster(horizon=2)
    named = fc.fit(X[:55], y[:55].rename("load")).predict(X[55:])
    for unnamed in (y, y.to_numpy()):
        np.testing.assert_array_equal(fc.fit(X[:55], unnamed[:55]).predict(X[55:]), named)
        assert list(fc.forecast(X[55:]).columns) == ["y_"]
        assert fc.forecast(X[57:], history=X[:57].assign(y_=y)).index[0] == DAYS[57]
    model = TransformedTargetRegressor(fc, func=np.log, inverse_func=np.exp)
    assert np.isfinite(model.fit(X[:55], y[:55]).predict(X[55:])).all()
    for itself in (X["y"], X["y"].to_numpy(), X["y"].rename(None)):
        with pytest.raises(DataError, match="'y' is in X and in y"):
            fc.fit(X, itself)


def test_objects_with_marks_of_missing_values_are_numbers():
    values = pd.Series([*week(58), pd.NA, 3], DAYS, dtype=object)
    plain = pd.to_numeric(values.where(values.notna(), None))
    found, expected = (
        ARIMAForecaster(horizon=3).fit(v.to_frame("v")).forecast() for v in (values, plain)
    )
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("role", ["past", "known", "static"])
def test_lists_in_a_column_are_refused(role):
    df = pd.DataFrame({"y": week(), "z": [[1]] * 60}, DAYS)
    roles = {} if role == "past" else {role: "z"}
    with pytest.raises(DataError, match="column 'z' has dtype object, expected numbers"):
        NaiveForecaster(target="y", **roles).fit(df)
    fc = NaiveForecaster(target="y", **roles).fit(df[:50].assign(z="a"))
    if role != "static":
        with pytest.raises(DataError, match="column 'z' has dtype object, expected numbers"):
            fc.update(df[50:])


def test_what_a_mask_hides_is_missing():
    values = np.r_[week(59), 999.0]
    masked, filled = np.ma.masked_equal(values, 999.0), np.where(values == 999.0, np.nan, values)
    fc, X = ARIMAForecaster(horizon=3), np.ones((60, 1))
    expected = fc.fit(filled[:, None]).forecast()
    pd.testing.assert_frame_equal(fc.fit(masked[:, None]).forecast(), expected)
    expected = fc.fit(X, filled).predict(X[:3])
    np.testing.assert_array_equal(fc.fit(X, masked).predict(X[:3]), expected)
    counts = np.ma.masked_equal(np.arange(60)[:, None], 59)
    assert np.isnan(fc.fit(counts).panel_.targets[59, 0])


# -- time stamps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timestamp", "zone", "date", "index", "category", "categories"])
def test_a_column_of_time_of_any_kind(kind):
    pa = pytest.importorskip("pyarrow")
    zone = "Europe/Berlin" if kind == "zone" else None
    df = pd.DataFrame({"t": DAYS.tz_localize(zone), "y": week()})
    expected = NaiveForecaster(time="t", horizon=3).fit(df).forecast()
    given = {
        "date": lambda t: pd.Series(pa.array(t.dt.date), dtype=pd.ArrowDtype(pa.date32())),
        "category": lambda t: t.astype(str).astype("category"),
        "categories": lambda t: t.astype("category"),
    }.get(kind, lambda t: t.astype(pd.ArrowDtype(pa.timestamp("ns", zone))))
    df = df.assign(t=given(df["t"]))
    fc = NaiveForecaster(time=None if kind == "index" else "t", horizon=3)
    found = fc.fit(df.set_index("t") if kind == "index" else df).forecast()
    pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_freq=False)
    if kind == "timestamp":
        panel = df.assign(id="a").set_index(["id", "t"])
        found = NaiveForecaster(horizon=3).fit(panel).forecast()
        assert (found.index.get_level_values("t") == expected.index).all()


def test_periods_of_another_frequency_than_freq_are_refused():
    df = pd.DataFrame({"y": week()}, pd.period_range("2020-01", periods=60, freq="M"))
    with pytest.raises(DataError, match="freq='D' is not that of the PeriodIndex, 'M'"):
        NaiveForecaster(freq="D").fit(df)
    with pytest.raises(DataError, match="freq='MS' is not that of the PeriodIndex"):
        NaiveForecaster(freq="MS").fit(df)
    assert NaiveForecaster(freq="M").fit(df).seasonality_ == 12


def test_a_coarser_history_is_refused_unless_freq_says_so():
    df = pd.DataFrame({"y": week()}, DAYS)
    weeks = df.set_axis(pd.date_range("2020-01-01", periods=60, freq="W"))
    network = DeepGRUForecaster(**TINY, horizon=3).fit(df)
    with pytest.raises(
        DataError, match="a row every 7 steps or more of the grid every (1D|24h): fit"
    ):
        network.forecast(history=weeks)
    network = DeepGRUForecaster(**TINY, horizon=3, freq="D").fit(df)
    last = weeks.index[-1] + pd.Timedelta(1, "D")
    assert network.forecast(history=weeks).index[0] == last
    assert len(network.forecast(history=df.drop(DAYS[[3, 9, 10]]))) == 3


def test_stamps_of_a_day_that_begins_at_one_are_those_that_later_rows_may_have():
    """Clocks in São Paulo went from 23:59 to 01:00 on 4 November 2018."""
    days = pd.date_range("2018-10-20", periods=12, tz="America/Sao_Paulo")
    fc = NaiveForecaster(target="y", known="k", strategy="drift", horizon=8)
    fc.fit(pd.DataFrame({"y": np.arange(12.0), "k": 1.0}, index=days))
    X = pd.DataFrame({"k": 1.0}, index=fc.future_index())
    assert X.index[3] == pd.Timestamp("2018-11-04 01:00", tz="America/Sao_Paulo")
    np.testing.assert_array_equal(fc.predict(X), np.arange(12.0, 20.0))
    assert fc.forecast(X).index.equals(X.index)
    assert len(fc.update(X.assign(y=1.0)).panel_.targets) == 20
    # nor does it matter that the history ends on that day
    fc.fit(pd.DataFrame({"y": np.arange(12.0), "k": 1.0}, index=days)).update(X[:4].assign(y=1.0))
    assert fc.future_index(4).equals(X.index[4:])
    assert fc.forecast(X[4:], horizon=4).index.equals(X.index[4:])
    assert fc.update(X[5:].assign(y=1.0)).panel_.absent.sum() == 1
    with pytest.raises(DataError, match="01:30:00.* is not on the grid"):
        fc.predict(X[3:4].set_axis(X.index[3:4] + pd.Timedelta("30min")))


def test_advice_fits_the_form_of_the_input():
    panel = pd.concat({"a": pd.DataFrame({"y": week()}, DAYS)}, names=["id", "t"])
    fc = NaiveForecaster()
    with pytest.raises(DataError, match=r"is \(time, series\), not \(series, time\): swap them"):
        fc.fit(panel.swaplevel())
    fc.set_params(series_id="id", time="t")
    with pytest.raises(DataError, match=r"not sorted.*sort_values\(\) by a column of time"):
        fc.fit(panel.reset_index()[::-1])
    offsets = [f"{day.date()}T00:00+0{1 + (day.month > 1)}:00" for day in DAYS]
    with pytest.raises(DataError, match=r"column 't' \(time\) cannot be read as time stamps.*utc"):
        fc.fit(panel.reset_index().assign(t=offsets))
