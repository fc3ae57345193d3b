"""Sections that the docstrings of metrics and scorers share, see ``parameters.documented``."""

from __future__ import annotations

__all__ = ["METRIC", "SCORER"]

# parameters by name, sections by title
METRIC = {
    "y_true": """\
y_true : array-like, shape (n,), (n, targets) or (windows, horizon, targets)
    Truth. NaN means unobserved: the position does not count.""",
    "y_pred": """\
y_pred : array-like, shape of y_true
    Forecast, row for row.""",
    "y_train": """\
y_train : array-like, shape (m,) or (m, targets)
    What the forecaster was trained on, in order of time. Where it or y_true has a MultiIndex
    (series, time), every series is scored on its own scale and the mean over series is taken.""",
    "lower": """\
lower, upper : array-like, shape of y_true
    Ends of the intervals.""",
    "nominal": """\
nominal : float, default=0.9
    Coverage that the intervals were made for, between 0 and 1.""",
    "sample_weight": """\
sample_weight : array-like, shape (n,), default=None
    Weights of the rows.""",
    "seasonality": """\
seasonality : int, default=1
    Steps of one season of the naive forecast; M4 uses 24 for hours, 12 for months, 4 for
    quarters and 1 for the rest, M5 uses 1.""",
    "multioutput": """\
multioutput : {"uniform_average", "raw_values"}, default="uniform_average"
    The mean over the targets that were observed at all, or one value for each target.""",
    "Returns": """\
float, or ndarray of shape (targets,)
    NaN where nothing was observed.""",
    "Raises": """\
DataError
    If shapes or pandas labels differ, values are infinite, a forecast is NaN where the truth
    was observed, or an argument is out of its range.""",
}
SCORER = {
    "seasonality": """\
seasonality : int, default=None
    Steps of the naive forecast that sets the scale; None chooses them from the history that
    the forecaster was fitted on, by its calendar or else its autocorrelation.""",
    "coverage": """\
coverage : float, default=0.9
    Nominal coverage, between 0 and 1.""",
    "Returns": "ForecastScorer",
    "Raises": """\
DataError
    If an argument is out of its range or missing.""",
}
METRIC["upper"] = METRIC["lower"]
