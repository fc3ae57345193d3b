"""Exponential smoothing against statsmodels."""

import warnings

import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

from rnnforecast.baselines import ETSForecaster
from rnnforecast.exceptions import DataError

FORMS = [
    ("add", None, False, None),
    ("add", "add", False, None),
    ("add", "add", True, "add"),
    ("add", None, False, "add"),
    ("mul", "add", True, "mul"),
    ("add", "add", False, "mul"),
    ("mul", "add", False, "add"),
    ("mul", None, False, None),
]
LINEAR = [form for form in FORMS if form[0] == "add" and form[3] != "mul"]


def quarterly(n=100, seed=0):
    rng = np.random.default_rng(seed)
    y = 50 + rng.normal(size=n).cumsum() + np.resize([1.0, 2, 3, 9], n)
    return pd.Series(y, pd.date_range("2000-01-01", periods=n, freq="QS"), name="y")


def forecaster(form, **other):
    error, trend, damped, seasonal = form
    return ETSForecaster(
        error=error, trend=trend, damped_trend=damped, seasonal=seasonal, horizon=6, **other
    )


def start_of(model, form):
    """Level, slope and season by row before the first one, on the scale of the data."""
    unit, centre = getattr(model, "unit", 1.0), getattr(model, "centre", 0.0)
    season = model.start[-4:] * unit if form[3] else np.zeros(1)
    slope = model.start[1] * unit if form[1] else 0.0
    # the filter's season is ordered backwards
    return model.start[0] * unit + centre, slope, season[:: -1 if form in LINEAR else 1]


def peer(y, form, model=None):
    """statsmodels' model, at our initial states if ``model`` is given."""
    error, trend, damped, seasonal = form
    kwargs = {}
    if model is not None:
        level, slope, season = start_of(model, form)
        kwargs = {
            "initialization_method": "known",
            "initial_level": level,
            "initial_trend": slope if trend else None,
            "initial_seasonal": season if seasonal else None,
        }
    return ETSModel(
        y,
        error=error,
        trend=trend,
        damped_trend=damped,
        seasonal=seasonal,
        seasonal_periods=4 if seasonal else None,
        **kwargs,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("missing", [0, 3])
def test_same_numbers_as_statsmodels(form, missing):
    y = quarterly()
    y.iloc[:missing] = np.nan
    fc = forecaster(form).fit(y)
    model = fc.models_[0][0]
    theirs = peer(y[missing:], form, model).smooth(model.smoothing)
    np.testing.assert_allclose(fc.predict(), theirs.forecast(6), rtol=1e-9)
    np.testing.assert_allclose(fc.predict(y.to_frame())[missing:], theirs.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(model.sigma**2, theirs.scale, rtol=1e-9)
    own = peer(y[missing:].to_numpy(), form).fit(disp=False)
    assert theirs.llf > own.llf - 0.05  # the same maximum


@pytest.mark.parametrize("form", FORMS)
def test_intervals_are_statsmodels(form):
    y = quarterly()
    fc = forecaster(form).fit(y)
    model = fc.models_[0][0]
    theirs = peer(y, form, model).smooth(model.smoothing)
    if form in LINEAR:
        expected, tolerance = theirs.get_prediction(100, 105).pred_int(alpha=0.1), 1e-9
    else:
        draws = np.random.default_rng(1).normal(size=(6, 4000)) * model.sigma
        paths = theirs.simulate(6, anchor="end", repetitions=4000, random_errors=draws)
        expected, tolerance = np.quantile(paths, [0.05, 0.95], axis=1).T, 0.012
    np.testing.assert_allclose(fc.predict_interval(coverage=0.9), expected, rtol=tolerance)


@pytest.mark.parametrize("form", LINEAR)
def test_missing_values_are_skipped_as_by_a_kalman_filter(form):
    y = quarterly()
    y.iloc[[30, 31, 60, 61, 62, 98, 99]] = np.nan
    fc = forecaster(form).fit(y)
    model = fc.models_[0][0]
    _, trend, damped, seasonal = form
    level, slope, season = start_of(model, form)
    theirs = ExponentialSmoothing(
        y.to_numpy(),
        trend=trend is not None,
        damped_trend=damped,
        seasonal=4 if seasonal else None,
        initialization_method="known",
        initial_level=level,
        initial_trend=slope if trend else None,
        initial_seasonal=season[::-1] if seasonal else None,
    ).smooth(model.smoothing)
    np.testing.assert_allclose(fc.predict(), theirs.forecast(6), rtol=1e-7)
    np.testing.assert_allclose(fc.predict(y.to_frame()), theirs.fittedvalues, rtol=1e-7)
    expected = theirs.get_forecast(6).conf_int(alpha=0.1)
    np.testing.assert_allclose(fc.predict_interval(), expected, rtol=1e-6)
    inside = theirs.get_prediction().conf_int(alpha=0.1)
    np.testing.assert_allclose(fc.predict_interval(y.to_frame()), inside, rtol=1e-6)


def test_the_start_is_the_likeliest_one_with_gaps():
    y = quarterly(60)
    y.iloc[[10, 11, 12, 40]] = np.nan
    form = ("add", "add", True, "add")
    model = forecaster(form).fit(y).models_[0][0]

    def likelihood(shift):
        level, slope, *season = model.start + shift
        return ExponentialSmoothing(
            (y.to_numpy() - model.centre) / model.unit,
            trend=True,
            damped_trend=True,
            seasonal=4,
            initialization_method="known",
            initial_level=level,
            initial_trend=slope,
            initial_seasonal=season,
        ).loglike(model.smoothing)

    rng, best = np.random.default_rng(0), likelihood(0.0)
    assert all(likelihood(0.1 * rng.normal(size=6)) < best for _ in range(10))


@pytest.mark.parametrize("form", LINEAR)
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("m", [4, 30])
def test_the_likelihood_is_that_of_a_kalman_filter(form, gaps, m):
    y = quarterly().reset_index(drop=True)
    if gaps:
        y.iloc[[10, 11, 12, 40, 97]] = np.nan
    model = forecaster(form, seasonality=m).fit(y).models_[0][0]
    n_states = model.form.n_states
    theirs = ExponentialSmoothing(
        (y.to_numpy() - model.centre) / model.unit,
        trend=form[1] is not None,
        damped_trend=form[2],
        seasonal=m if form[3] else None,
        initialization_method="known",
        initial_level=model.start[0],
        initial_trend=model.start[1] if form[1] else None,
        initial_seasonal=model.start[n_states - m :] if form[3] else None,
    ).filter(model.smoothing)
    np.testing.assert_allclose(model.log_likelihood, theirs.llf, rtol=1e-8)
    np.testing.assert_allclose(model.sigma, np.sqrt(theirs.scale) * model.unit, rtol=1e-8)


def test_a_long_series_starts_from_its_first_rows():
    rng = np.random.default_rng(0)
    season = 5 * np.sin(np.arange(2400) * np.pi / 12)
    y = pd.Series(rng.normal(size=2400).cumsum() + season + rng.normal(size=2400), name="y")
    y.iloc[[3, 700, 701, 2300]] = np.nan
    fc = ETSForecaster(seasonality=24, trend=None, seasonal="add", horizon=24).fit(y)
    model = fc.models_[0][0]
    theirs = ExponentialSmoothing(
        (y.to_numpy() - model.centre) / model.unit,
        seasonal=24,
        initialization_method="known",
        initial_level=model.start[0],
        initial_seasonal=model.start[1:],
    ).filter(model.smoothing)
    expected = theirs.forecast(24) * model.unit + model.centre
    np.testing.assert_allclose(fc.predict(), expected, rtol=1e-8)
    early = fc.predict(y.to_frame())[:200]
    errors = (early - y[:200]).dropna()
    assert errors.std() < 1.2 * model.sigma


@pytest.mark.parametrize("form", [("add", None, False, "add"), ("add", "add", True, "add")])
def test_the_search_with_gaps_reaches_statsmodels_maximum(form):
    y = quarterly(60) - 50
    y.iloc[[10, 11, 12, 40]] = np.nan
    fc = forecaster(form).fit(y)
    model = fc.models_[0][0]
    options = {"trend": form[1] is not None, "damped_trend": form[2], "seasonal": 4}
    ours = ExponentialSmoothing(
        y.to_numpy(),
        **options,
        initialization_method="known",
        initial_level=start_of(model, form)[0],
        initial_trend=start_of(model, form)[1] if form[1] else None,
        initial_seasonal=start_of(model, form)[2][::-1],
    ).loglike(model.smoothing)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ExponentialSmoothing(
            y.to_numpy(), **options, initialization_method="estimated"
        ).fit(disp=False, maxiter=500)
    assert fc.converged_
    assert ours > theirs.llf - 0.05


@pytest.mark.parametrize("form", FORMS)
def test_update_is_the_recursion_over_all_rows(form):
    y = quarterly()
    fc = forecaster(form).fit(y[:80])
    one_step = []
    for row in range(80, 100):
        one_step.append(fc.predict()[0])
        fc.update(y[row : row + 1].to_frame())
    np.testing.assert_allclose(fc.predict(y[80:].to_frame()), one_step, rtol=1e-12)
    model = fc.models_[0][0]
    theirs = peer(y, form, model).smooth(model.smoothing)
    np.testing.assert_allclose(fc.predict(), theirs.forecast(6), rtol=1e-9)


def test_automatic_choice():
    rng = np.random.default_rng(1)
    t = np.arange(80)
    index = pd.date_range("2000-01-01", periods=80, freq="QS")
    season = np.resize([0.8, 1.0, 1.1, 1.3], 80)
    series = {
        "ETS(A,N,N)": 20 + rng.normal(size=80),
        "ETS(A,N,A)[4]": 10 * season + rng.normal(size=80),
        "ETS(A,A,N)": 3.0 * t + 2 * rng.normal(size=80),
        "ETS(M,A,M)[4]": (50 + 5 * t) * season * (1 + 0.02 * rng.normal(size=80)),
    }
    for form, values in series.items():
        fc = ETSForecaster().fit(pd.DataFrame({"y": values}, index=index))
        assert fc.form_ == form
        assert form in repr(fc)
    # values of 0 or below rule out the multiplicative forms
    fc = ETSForecaster().fit(pd.DataFrame({"y": series["ETS(M,A,M)[4]"] - 200}, index=index))
    assert "M" not in fc.form_


def test_coverage_by_simulation():
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(150):
        errors, level, y = rng.normal(size=126), 0.0, []
        for e in errors:
            y.append(level + e)
            level += 0.3 * e
        fc = ETSForecaster(trend=None, seasonal=None, horizon=6).fit(pd.Series(y[:120]))
        low, high = fc.predict_interval(coverage=0.8).T
        inside.append((low < y[120:]) & (np.array(y[120:]) < high))
    assert abs(np.mean(inside) - 0.8) < 0.05


def test_long_seasons_with_gaps():
    rng = np.random.default_rng(0)
    n = 24 * 12
    y = 10 * np.sin(np.arange(n) * np.pi / 12) + rng.normal(size=n)
    y[50:60] = np.nan
    frame = pd.DataFrame({"y": y}, index=pd.date_range("2024", periods=n, freq="h"))
    fc = ETSForecaster(trend=None, horizon=24).fit(frame)
    assert fc.form_ == "ETS(A,N,A)[24]"
    truth = 10 * np.sin((n + np.arange(24)) * np.pi / 12)
    assert np.sqrt(np.mean((fc.predict() - truth) ** 2)) < 0.8


def test_multiplicative_forms_refuse_what_they_cannot_take():
    y = quarterly()
    with pytest.raises(DataError, match="the series: seasonal='mul' needs values above 0"):
        ETSForecaster(seasonal="mul").fit(y - 100)
    y.iloc[20] = np.nan
    with pytest.raises(DataError, match=r"error='mul' needs values above 0 and none missing"):
        ETSForecaster(error="mul").fit(y)
    with pytest.raises(DataError, match="needs a season of 2 or more"):
        ETSForecaster(seasonal="add").fit(pd.Series(np.arange(30.0)))
    with pytest.raises(DataError, match="damped_trend=True needs a trend"):
        ETSForecaster(trend=None, damped_trend=True).fit(pd.Series(np.arange(30.0)))
