"""Plots: what is drawn is compared with the numbers that went in."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from rnnforecast.exceptions import DataError
from rnnforecast.plotting import forecast_figure, plot_forecast

pytest.importorskip("matplotlib")

TIMES = pd.date_range("2024-01-01", periods=100, freq="h", name="time")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.fixture
def ax():
    from matplotlib.figure import Figure

    return Figure().add_subplot()


@pytest.fixture
def values():
    return pd.DataFrame({"a": np.arange(100.0), "b": -np.arange(100.0)}, index=TIMES)


def quantiles_of(frame, levels=LEVELS):
    """Return the frame plus ten times the level's distance from the median."""
    parts = {(name, p): frame[name] + 10 * (p - 0.5) for name in frame for p in levels}
    return pd.DataFrame(parts).rename_axis(columns=["target", "quantile"])


def drawn(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def bands(ax):
    found = {}
    for collection in ax.collections:
        path = collection.get_paths()[0].vertices
        found[collection.get_label()] = (path[:, 1].min(), path[:, 1].max())
    return found


def test_lines_are_the_numbers(ax, values):
    out = plot_forecast(values[:90], values[90:], values[90:] + 1, ax, target="a", tail=20)
    assert out is ax and ax.get_ylabel() == "a"
    lines = drawn(ax)
    np.testing.assert_array_equal(lines["observed"], np.arange(70, 90))
    np.testing.assert_array_equal(lines["forecast"], np.arange(90, 100))
    np.testing.assert_array_equal(lines["truth"], np.arange(91, 101))
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), TIMES[90:].to_numpy())


@pytest.mark.parametrize(("steps", "shown"), [(2, 48), (20, 80)])
def test_the_tail_follows_the_forecast(ax, values, steps, shown):
    plot_forecast(values["a"][:-steps], values["a"][-steps:], ax=ax)
    assert len(drawn(ax)["observed"]) == min(shown, 100 - steps)


def test_quantiles_make_a_median_and_nested_bands(ax, values):
    plot_forecast(values[:99], quantiles_of(values[99:]), ax=ax, target="a")
    np.testing.assert_allclose(drawn(ax)["forecast"], [99.0])
    assert ax.get_ylabel() == "a"
    assert list(bands(ax)) == ["90 % interval", "50 % interval"]  # the wide one below
    assert bands(ax)["90 % interval"] == pytest.approx((94.5, 103.5))
    assert bands(ax)["50 % interval"] == pytest.approx((96.5, 101.5))


def test_without_a_median_the_line_runs_between_its_neighbours(ax, values):
    plot_forecast(None, quantiles_of(values[["a"]][99:], (0.1, 0.9)), ax=ax)
    np.testing.assert_allclose(drawn(ax)["forecast"], [99.0])
    assert list(bands(ax)) == ["80 % interval"] and "observed" not in drawn(ax)


def test_intervals_of_predict_interval(ax, values):
    line = values["a"][90:]
    plot_forecast(values["a"][:90], line, ax=ax, intervals=np.c_[line - 3, line + 4])
    assert bands(ax) == {"interval": (87.0, 103.0)}
    with pytest.raises(DataError, match=r"shape \(10, 2\).*Got \(10, 3\)"):
        plot_forecast(None, line, ax=ax, intervals=np.zeros((10, 3)))
    with pytest.raises(DataError, match=r"each of the 10 rows of the forecast. Got 9"):
        plot_forecast(None, line, ax=ax, intervals=np.zeros((9, 2)))


def test_panels_and_many_columns_ask_which_one(ax, values):
    panel = pd.concat({"x": values, "y": values + 5}, names=["series", "time"])
    with pytest.raises(DataError, match=r"holds more than one target \('a', 'b'\): pass target="):
        plot_forecast(values, values, ax=ax)
    with pytest.raises(DataError, match=r"more than one series \('x', 'y'\): pass series="):
        plot_forecast(panel, panel, ax=ax, target="a")
    with pytest.raises(DataError, match="no series 'z'"):
        plot_forecast(panel, panel, ax=ax, target="a", series="z")
    with pytest.raises(DataError, match="no target 'c', but 'a', 'b'"):
        plot_forecast(values, values, ax=ax, target="c")
    plot_forecast(panel, panel, ax=ax, target="a", series="y")
    np.testing.assert_array_equal(drawn(ax)["forecast"], values["a"] + 5)
    assert ax.get_title("left") == "y"


def test_figure_draws_each_series_and_target(values):
    panel = pd.concat({"x": values, "y": values + 5}, names=["series", "time"])
    now = panel.index.get_level_values("time") >= TIMES[90]
    spread = quantiles_of(panel[now], (0.05, 0.95))
    figure = forecast_figure(panel[~now], panel[now], intervals=spread)
    seen = [(ax.get_title("left"), ax.get_ylabel(), drawn(ax)["forecast"][0]) for ax in figure.axes]
    assert seen == [("x", "a", 90.0), ("x", "b", -90.0), ("y", "a", 95.0), ("y", "b", -85.0)]
    assert bands(figure.axes[2])["90 % interval"] == pytest.approx((90.5, 108.5))
    assert [ax.get_legend() is not None for ax in figure.axes] == [True, False, False, False]
    assert len(forecast_figure(panel[~now], panel[now], max_panels=3).axes) == 3


@pytest.mark.parametrize(
    "index", [pd.RangeIndex(100), pd.period_range("2024", periods=100, freq="M")]
)
def test_other_indexes(ax, index, tmp_path):
    values = pd.Series(np.arange(100.0), index=index)
    plot_forecast(values[:90], values[90:], ax=ax)
    ax.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_time_zones_show_local_clock_time(ax):
    values = pd.Series([1.0, 2.0], index=pd.date_range("2024-01-01", periods=2, tz="Asia/Tokyo"))
    plot_forecast(None, values, ax=ax)
    assert ax.lines[0].get_xdata()[0] == np.datetime64("2024-01-01T00:00")


def test_a_new_axes_is_made_when_none_is_given(values, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    ax = plot_forecast(values["a"][:90], values["a"][90:])
    assert pyplot.get_fignums() == [ax.figure.number]
    pyplot.close(ax.figure)


def test_import_does_not_load_matplotlib():
    code = "import sys, rnnforecast.plotting; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bounds_of_the_only_series_of_a_panel(ax, values):
    panel = pd.concat({"x": values["a"]}, names=["series", "time"])
    bounds = pd.DataFrame({"lower": panel - 2, "upper": panel + 2})
    plot_forecast(panel[:90], panel[90:], ax=ax, intervals=bounds[90:])
    assert bands(ax) == {"interval": (88.0, 101.0)}
