"""The budget, failures and the status of candidates, by stubs on a clock of their own."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast import AutoForecaster, ETSForecaster, NaiveForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import BaseForecaster
from rnnforecast.outputs import PointForecast


class Clock:
    """Seconds that pass by ``clock.now += seconds``."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Stub(BaseForecaster):
    """Forecasts the last value plus ``bias``; a fit takes ``seconds`` of the clock an epoch."""

    clock = Clock()
    fits: list = []
    asked: list = []

    def __init__(
        self,
        *,
        bias=0.0,
        seconds=0.0,
        fails=None,
        horizon=1,
        max_epochs=1,
        random_state=None,
        target=None,
        known=None,
        static=None,
        series_id=None,
        time=None,
        freq=None,
    ):
        self.bias = bias
        self.seconds = seconds
        self.fails = fails
        self.horizon = horizon
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq

    def _fit_panel(self, panel):
        if self.fails is not None:
            raise self.fails
        Stub.clock.now += self.seconds * self.max_epochs
        Stub.fits.append((self.bias, self.max_epochs, len(panel.targets)))
        return {"n_rows_": len(panel.targets), "seed_": self.random_state}

    def _forecast(self, history, series, origins, n_steps, known):
        Stub.asked.append(np.column_stack([series, origins]).tolist())
        last = history.targets[history.indptr[series] + np.maximum(origins - 1, 0)]
        return PointForecast(torch.from_numpy(np.repeat((last + self.bias)[:, None], n_steps, 1)))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    Stub.clock, Stub.fits, Stub.asked = Clock(), [], []
    monkeypatch.setattr("rnnforecast.auto._search.monotonic", Stub.clock)
    monkeypatch.setattr("rnnforecast.auto.forecaster.monotonic", Stub.clock)
    return Stub.clock


def frame(n=120, n_series=1, seed=0):
    """Random walks: the last value is the best forecast, each bias as much worse."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2024-01-01", periods=n, freq="D", name="time")
    parts = {
        f"s{i}": pd.DataFrame({"y": 50 + rng.normal(size=n).cumsum()}, index=index)
        for i in range(n_series)
    }
    return pd.concat(parts, names=["id"]) if n_series > 1 else parts["s0"]


def auto(candidates, **options):
    return AutoForecaster(horizon=5, candidates=candidates, random_state=0, **options)


def rows_of(fc):
    return fc.leaderboard_.set_index("model")


def test_a_stub_without_bias_is_the_naive_forecast():
    fc = auto({"same": Stub()}).fit(frame())
    board = rows_of(fc)
    assert board.loc["same", "score"] == pytest.approx(board.loc["naive", "score"], rel=1e-12)
    assert list(fc.leaderboard_.columns) == ["model", "score", "weight", "seconds", "status"]
    assert fc.leaderboard_["score"].is_monotonic_increasing
    assert fc.leaderboard_["weight"].sum() == pytest.approx(1.0)


def test_a_candidate_is_judged_from_all_origins_by_one_call():
    fc = auto({"same": Stub()}, n_origins=3).fit(frame(80, n_series=2))
    origins = [65, 70, 75]  # the last three horizons of each series
    assert Stub.asked[0] == [[series, origin] for series in (0, 1) for origin in origins]
    assert fc.conformal_.errors.shape == (6, 5, 1)


@pytest.mark.parametrize(
    "error", [DataError("too short"), ArithmeticError("diverged"), RuntimeError("two\nlines")]
)
def test_a_failure_is_told_and_harms_nothing(error):
    fc = auto({"bad": Stub(fails=error), "good": Stub(bias=0.01)}).fit(frame())
    board = rows_of(fc)
    first = str(error).splitlines()[0]
    assert board.loc["bad", "status"] == f"failed: {type(error).__name__}: {first}"
    assert np.isnan(board.loc["bad", "score"]) and board.loc["bad", "weight"] == 0
    assert np.isfinite(board.loc["good", "score"])
    assert np.isfinite(fc.forecast().to_numpy()).all()


def test_an_interrupt_goes_through_and_leaves_nothing_half_fitted():
    fc = auto([Stub()]).fit(frame())
    before = fc.forecast()
    fc.set_params(candidates=[Stub(fails=KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        fc.fit(frame(seed=1))
    pd.testing.assert_frame_equal(fc.forecast(), before)
    fresh = auto([Stub(fails=KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(frame())
    assert not [name for name in vars(fresh) if name.endswith("_")]


class NotFinite(Stub):
    def _forecast(self, history, series, origins, n_steps, known):
        return PointForecast(torch.full((len(series), n_steps, 1), torch.inf))


def test_forecasts_that_are_not_finite_are_a_failure():
    fc = auto([NotFinite()]).fit(frame())
    assert rows_of(fc).loc["NotFinite", "status"] == "failed: its forecasts are not finite"


class Warns(Stub):
    def _fit_panel(self, panel):
        warnings.warn("a rough fit", UserWarning, stacklevel=2)
        return super()._fit_panel(panel)


def test_a_warning_stands_in_the_status_and_nowhere_else():
    fc = auto([Warns()]).fit(frame())  # an escaped warning would be an error here
    assert rows_of(fc).loc["Warns", "status"].endswith("warned: a rough fit")


# -- the budget ------------------------------------------------------------------------------------


def test_a_network_is_shortened_to_what_is_left_for_it_and_its_refit(clock):
    # half of the 40 s is set aside for the refit; of the other 20 s, 2 s go to time one epoch
    fc = auto({"net": Stub(bias=0.01, seconds=2.0, max_epochs=30)}, time_budget=40).fit(frame())
    assert rows_of(fc).loc["net", "status"].count("9 of 30 epochs, by the budget") == 1
    assert clock.now - 1000.0 <= 40


def test_a_network_that_cannot_be_trained_in_time_is_skipped(clock):
    fc = auto({"net": Stub(seconds=9.0, max_epochs=30)}, time_budget=40).fit(frame())
    status = rows_of(fc).loc["net", "status"]
    assert status == "skipped: 30 epochs would take 270 s, out of budget"
    assert clock.now - 1000.0 <= 40
    assert rows_of(fc)["weight"].sum() == pytest.approx(1.0)


def test_what_comes_after_the_budget_is_skipped(clock):
    slow = {f"net {k}": Stub(bias=0.5, seconds=4.0, max_epochs=3) for k in range(9)}
    fc = auto(slow, time_budget=60).fit(frame())
    board = rows_of(fc)
    assert board["status"].str.startswith("skipped: ").any()
    assert clock.now - 1000.0 <= 60 * 1.15


def test_seconds_for_the_refit_are_set_aside(clock):
    seconds = {"seconds": 5.0, "max_epochs": 3}
    fc = auto(
        {"net": Stub(bias=-0.01, **seconds), "late": Stub(bias=2.0, **seconds)}, time_budget=41
    )
    df = frame()
    df["y"] -= 0.3 * np.arange(len(df))  # so that the first one is chosen
    fc.set_params(candidates={"net": Stub(bias=-1.0, **seconds), "late": Stub(bias=2.0, **seconds)})
    board = rows_of(fc.fit(df))
    assert "fitted again to all rows" in board.loc["net", "status"]
    assert board.loc["late", "status"].startswith("skipped: ")
    assert clock.now - 1000.0 <= 41
    kept = rows_of(clone_with(fc, refit=False).fit(df))
    assert "weights of the validation kept" in kept.loc["net", "status"]


def clone_with(fc, **changes):
    from sklearn.base import clone

    return clone(fc).set_params(**changes)


def test_the_refit_sees_all_rows_and_the_trial_does_not():
    df = frame()
    df["y"] = -0.5 * np.abs(np.arange(len(df)) - 60.0)  # no drift from end to end
    fc = auto({"net": Stub(bias=-1.5)}, n_origins=2).fit(df)
    assert rows_of(fc).loc["net", "weight"] > 0
    rows = [n for _, _, n in Stub.fits]
    assert set(rows) == {110, 120} and rows[-1] == 120


def test_networks_of_the_ensemble_get_further_seeds():
    df = frame()
    df["y"] = -0.5 * np.abs(np.arange(len(df)) - 60.0)  # no drift from end to end
    fc = auto({"net": Stub(bias=-1.5), "bad": Stub(bias=9.0)}).fit(df)
    board = rows_of(fc)
    assert {"net, seed 2", "net, seed 3"} < set(board.index)
    assert not [name for name in board.index if name.startswith("bad,")]


def test_a_network_with_half_of_the_weight_gets_its_seeds_before_the_rest():
    df = frame()
    df["y"] = -0.5 * np.abs(np.arange(len(df)) - 60.0)  # no drift from end to end
    others = {f"net {k}": Stub(bias=5.0 + k) for k in range(5)}
    fc = auto({"star": Stub(bias=-1.5), **others}, refit=False).fit(df)
    order = [bias for bias, _, _ in Stub.fits]
    biases = list(dict.fromkeys(order))  # each is timed first, then fitted
    assert biases == [-1.5, 5.0, 6.0, 7.0, 8.0, 9.0]
    stars = [k for k, bias in enumerate(order) if bias == -1.5]
    assert max(stars) < order.index(8.0)  # after four networks, before the other two
    names = fc.leaderboard_["model"]
    assert names.str.startswith("star").sum() == 3 and not names.str.startswith("net 0,").any()


class Batched(Stub):
    """A second to set up, and ``seconds`` a batch."""

    def __init__(
        self, *, bias=0.0, seconds=0.1, n_batches=50, max_epochs=6, horizon=1, random_state=None
    ):
        super().__init__(bias=bias, seconds=seconds, max_epochs=max_epochs, horizon=horizon)
        self.n_batches = n_batches
        self.random_state = random_state

    def _fit_panel(self, panel):
        Stub.clock.now += 1.0 + self.seconds * (self.n_batches * self.max_epochs - self.max_epochs)
        return super()._fit_panel(panel)


def test_a_network_of_many_batches_is_timed_by_few_of_them(clock):
    fc = auto([Batched(bias=0.5)], time_budget=120, refit=False).fit(frame())
    board = rows_of(fc)
    # trials of 1 and 5 batches, then 6 epochs of 50, each after a second
    assert board.loc["Batched", "seconds"] == pytest.approx(1.1 + 1.5 + 31.0)
    board = rows_of(clone_with(fc, time_budget=25).fit(frame()))
    assert "4 of 6 epochs" in board.loc["Batched", "status"]
    board = rows_of(clone_with(fc, time_budget=12).fit(frame()))  # not even a second trial
    assert board.loc["Batched", "status"].startswith("skipped: 6 epochs would take")
    assert board.loc["Batched", "seconds"] == pytest.approx(1.1)


class SlowBaseline(ETSForecaster):
    """A baseline of one minute a series."""

    def _fit_panel(self, panel):
        Stub.clock.now += 60.0 * panel.n_series
        return super()._fit_panel(panel)


def test_a_slow_baseline_is_timed_on_few_series_and_skipped(clock):
    fc = auto([SlowBaseline(trend=None, seasonal=None)], time_budget=3000).fit(
        frame(40, n_series=30)
    )
    status = rows_of(fc).loc["SlowBaseline", "status"]
    # 30 series of one minute; 15% of 3000 s is 450 s
    assert status == "skipped: 30 series would take 1800 s, more than its share of 450 s"
    assert clock.now - 1000.0 == 4 * 60.0  # one series to warm up, three on the clock


def test_a_baseline_too_slow_even_for_a_trial_is_not_tried(clock):
    fc = auto([ETSForecaster()], time_budget=0.5).fit(frame(200))
    assert rows_of(fc).loc["ETSForecaster", "status"].startswith("skipped: one series may take")


def test_no_budget_at_all_still_forecasts():
    fc = auto([Stub(), ETSForecaster(), NaiveForecaster()], time_budget=1e-9)
    Stub.clock.now += 0.0
    fc.fit(frame())
    assert np.isfinite(fc.forecast().to_numpy()).all()
    assert fc.leaderboard_["weight"].sum() == pytest.approx(1.0)
