"""Pictures: what is drawn is what was computed, on labelled axes."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

import rnnforecast.inspection
from rnnforecast import NaiveForecaster
from rnnforecast.exceptions import DataError, OptionalDependencyError
from rnnforecast.inspection import (
    AdversarialDisplay,
    AttentionDisplay,
    AttributionDisplay,
    ForecastDisplay,
    GateDisplay,
    GradientFlowDisplay,
    HiddenStateDisplay,
    ResidualDisplay,
    TrainingCurveDisplay,
)

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def agg():
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    yield
    pyplot.close("all")


@pytest.fixture(scope="session")
def displays(fitted, panel):
    index = fitted.future_index()
    future = pd.DataFrame({"price": 0.0, "shift": "day", "size": 0.0}, index=index)
    return {
        TrainingCurveDisplay: TrainingCurveDisplay.from_estimator(fitted),
        GradientFlowDisplay: GradientFlowDisplay.from_estimator(fitted),
        HiddenStateDisplay: HiddenStateDisplay.from_estimator(fitted),
        GateDisplay: GateDisplay.from_estimator(fitted),
        AttentionDisplay: AttentionDisplay.from_estimator(fitted, series="B"),
        ForecastDisplay: ForecastDisplay.from_estimator(fitted, future),
        ResidualDisplay: ResidualDisplay.from_estimator(fitted),
        AttributionDisplay: AttributionDisplay.from_estimator(fitted, future=future),
        AdversarialDisplay: AdversarialDisplay.from_estimator(fitted, future=future, n_steps=2),
    }


def axes_of(display):
    return np.atleast_1d(np.array(display.ax_, dtype=object)).tolist()


def texts_overlap(figure, axes):
    """Pairs of tick labels, titles and axis labels of one Axes that lie on one another."""
    figure.canvas.draw()
    found = []
    for ax in axes:
        parts = [ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            parts += [tick.label1 for tick in ticks]
        if ax.get_legend() is not None:
            parts += ax.get_legend().get_texts()
        boxes = [(p.get_text(), p.get_window_extent()) for p in parts if p.get_text()]
        for k, (text, box) in enumerate(boxes):
            found += [(text, other) for other, b in boxes[k + 1 :] if box.overlaps(b)]
    return found


@pytest.mark.parametrize("name", rnnforecast.inspection.__all__)
def test_every_display_draws_all_its_parts(displays, name):
    display = displays[getattr(rnnforecast.inspection, name)]
    assert display.plot() is display
    axes = axes_of(display)
    assert all(ax.figure is display.figure_ for ax in axes)
    for ax in axes:
        assert ax.has_data() and ax.get_xlabel() + ax.get_ylabel()
    assert not texts_overlap(display.figure_, axes)


def test_one_axes_takes_the_first_part_and_several_as_many(displays):
    from matplotlib.figure import Figure

    display, ax = displays[ResidualDisplay], Figure().add_subplot()
    assert display.plot(ax).ax_ is ax
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), display.residuals[1])
    two = Figure().subplots(1, 3)
    display.plot(two)
    assert two[1].get_ylabel() == "autocorrelation" and "normal" in two[2].get_xlabel()
    with pytest.raises(DataError, match="ax must be 1 to 4 Axes, for .*'acf', 'qq', .* Got 5"):
        display.plot(Figure().subplots(5))


def test_the_numbers_are_drawn(displays):
    states = displays[HiddenStateDisplay].plot()
    (mesh,) = [c for c in states.ax_[0].collections if hasattr(c, "get_coordinates")]
    np.testing.assert_array_equal(mesh.get_array(), states.states.T)
    flow = displays[GradientFlowDisplay].plot()
    np.testing.assert_array_equal(flow.ax_.lines[0].get_ydata(), flow.norms["layer 1"])
    assert flow.ax_.get_legend().get_texts()[0].get_text().startswith("layer 1: ")
    weights = displays[AttentionDisplay].plot()
    (mesh,) = [c for c in weights.ax_.collections if hasattr(c, "get_coordinates")]
    np.testing.assert_array_equal(mesh.get_array(), weights.weights)
    first = mesh.get_coordinates()[0, :2, 0]
    dates = matplotlib.dates.num2date(first.mean()).replace(tzinfo=None)
    assert pd.Timestamp(dates).round("s") == weights.weights.columns[0]
    panels = displays[ForecastDisplay].plot()
    line = next(line for line in panels.ax_[3].lines if line.get_label() == "forecast")
    np.testing.assert_array_equal(line.get_ydata(), panels.forecast.loc["B", "wind"])


def test_rows_without_dates(fit, single):
    plain = single.reset_index(drop=True)
    model = fit().set_params(horizon=1).fit(plain)
    for display in (HiddenStateDisplay, AttributionDisplay, AdversarialDisplay, ResidualDisplay):
        drawn = display.from_estimator(model).plot()
        assert not texts_overlap(drawn.figure_, axes_of(drawn))
    naive = NaiveForecaster(horizon=1).fit(plain)
    assert ForecastDisplay.from_estimator(naive).plot().ax_.get_xlabel() == "step"


def test_matplotlib_is_needed_for_pictures_alone(one, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    display = GradientFlowDisplay.from_estimator(one)
    with pytest.raises(OptionalDependencyError, match=r"rnnforecast\[plot\]"):
        display.plot()
