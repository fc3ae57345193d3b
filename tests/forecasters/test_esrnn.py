"""The hybrid of smoothing and network: contract, states, and what it must not know."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from rnnforecast import ESRNNForecaster
from rnnforecast.data.building import build_panel
from rnnforecast.data.frames import read_table
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._esrnn_training import ESRun, initial_states
from rnnforecast.forecasters._esrnn_units import hybrid_loss, measure, pinball
from rnnforecast.nn.smoothing import smooth_arrays

TINY = {"hidden_size": 4, "max_epochs": 2, "n_batches": 3, "n_members": 1, "random_state": 0}


def tiny(**options):
    return ESRNNForecaster(
        **{"horizon": 6, "lookback": 8, "seasonality": (4, 8), **TINY, **options}
    )


def wave(n=90, seed=0, level=5.0):
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    y = level + np.sin(t * np.pi / 2) + 0.5 * np.cos(t * np.pi / 4) + 0.1 * rng.normal(size=n)
    return pd.DataFrame({"y": y}, index=pd.date_range("2024-01-01", periods=n, freq="h"))


def panel(ends=(0, 13, 60), n=90):
    parts = {f"s{k}": wave(n, k, 5.0 * (k + 1)).iloc[end:] for k, end in enumerate(ends)}
    return pd.concat(parts, names=["id", "time"])


def bits(fc):
    return [{k: v.numpy().tobytes() for k, v in net.state_dict().items()} for net in fc.networks_]


# -- randomness and state --------------------------------------------------------------------------


def test_same_seed_same_bits():
    first = tiny(n_members=2).fit(panel())
    again = clone(first).fit(panel())
    other = clone(first).set_params(random_state=1).fit(panel())
    assert bits(first) == bits(again)
    assert bits(first)[0] != bits(first)[1]
    pd.testing.assert_frame_equal(first.forecast(horizon=15), again.forecast(horizon=15))
    assert bits(first) != bits(other)
    # the first of several members is the one trained alone
    assert bits(tiny().fit(panel()))[0] == bits(first)[0]


def test_nothing_global_is_touched_and_nothing_printed(capfd):
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    tiny(random_state=None).fit(panel()).forecast(quantiles=[0.1])
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


def test_a_failed_fit_leaves_nothing_behind():
    fc = tiny().fit(wave())
    before = fc.forecast()
    with pytest.raises(DataError, match="mode='multiplicative' needs positive targets"):
        fc.set_params(mode="multiplicative").fit(wave() - 10)
    pd.testing.assert_frame_equal(fc.forecast(), before)


# -- what it must not know -------------------------------------------------------------------------


def test_the_future_in_X_changes_no_bit():
    df = panel()
    fc = tiny().fit(df.groupby(level=0).head(20).combine_first(df.groupby(level=0).head(80)))
    time = df.index.get_level_values("time")
    later = df[time > time.min() + pd.Timedelta(hours=79)]
    np.testing.assert_array_equal(fc.predict(later), fc.predict(later * np.nan))


def test_calibration_rows_train_no_weight_of_the_network_apart(monkeypatch):
    df = wave(120)
    moved = df.copy()
    moved.iloc[-12:] *= 2.0
    seen = []
    calibrate = ESRun.calibrate

    def spy(self, networks):
        seen.append([net.state_dict() for net in networks])
        return calibrate(self, networks)

    monkeypatch.setattr(ESRun, "calibrate", spy)
    first, other = tiny().fit(df), tiny().fit(moved)
    (one,), (two,) = seen
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert bits(first) != bits(other)  # those that forecast know all rows
    assert not np.array_equal(first.conformal_.errors, other.conformal_.errors)


def test_in_sample_values_come_from_the_rows_before():
    df = wave()
    fc = tiny().fit(df)
    longer = copy.deepcopy(fc).update(wave(100).iloc[90:] * 3)
    np.testing.assert_array_equal(fc.predict(df), longer.predict(df))


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_in_sample_values_are_those_of_the_recursion(known):
    df = wave()
    if known:
        df["x"] = np.random.default_rng(1).normal(size=len(df))
        df["y"] += 0.5 * df["x"]
    fc = tiny(target="y", known="x" if known else None).fit(df)
    (net,) = fc.networks_
    units = fc.model_.units
    z = (np.log(df["y"].to_numpy()) - units.centre[0, 0]) / units.scale[0, 0]
    effect = np.zeros(len(z))
    if known:
        x = torch.tensor(fc.model_.covariates.known(df[["x"]].to_numpy()))[None]
        effect = net.effect(x)[0, :, 0].numpy()
    alpha, gammas = (x.numpy() for x in net.coefficients(torch.tensor([0])))
    trust = net.trust(torch.tensor([0])).numpy()
    seasons = [k[:, None] * season for k, season in zip(trust, fc.model_.seasons)]
    out = smooth_arrays((z - effect)[None], alpha, list(gammas), fc.model_.level, seasons)
    before = np.concatenate([fc.model_.level, out.level[0, :-1]])
    fitted = before + out.seasons[0][0, :90] + out.seasons[1][0, :90] + effect
    expected = np.exp(fitted * units.scale[0, 0] + units.centre[0, 0])
    np.testing.assert_allclose(fc.predict(df[["x"]] if known else df), expected, rtol=1e-10)


def test_update_moves_the_states_as_a_whole_history_would():
    df = panel()
    time = df.index.get_level_values("time")
    cut = time.min() + pd.Timedelta(hours=79)
    fc = tiny(validation_fraction=0.0).fit(df[time <= cut])
    at_once = copy.deepcopy(fc).update(df[time > cut])
    step = copy.deepcopy(fc)
    for stamp in sorted(set(time[time > cut])):
        step.update(df[time == stamp])
    pd.testing.assert_frame_equal(step.forecast(), at_once.forecast())
    # the states of the whole history under the same weights
    (member,) = at_once.model_.members
    again = at_once.model_.begun(member.network, at_once.panel_)
    np.testing.assert_allclose(member.states.level, again.states.level, rtol=1e-12)
    for moved, whole in zip(member.states.ahead, again.states.ahead):
        np.testing.assert_allclose(moved, whole, rtol=1e-12, atol=1e-12)
    assert bits(fc) == bits(at_once)


def test_a_gap_carries_the_state():
    df = wave()
    fc = tiny().fit(df)
    jumped = copy.deepcopy(fc).update(wave(100).iloc[96:])  # rows 90..95 were not observed
    level = jumped.model_.members[0].states.level[:, 0]
    assert (level[90:96] == level[89]).all()
    assert level[96] != level[89]


def test_forecasts_depend_on_the_own_series_alone():
    df = panel()
    fc = tiny().fit(df)
    rows = pd.concat(
        {name: fc.forecast().loc[name] for name in ("s0", "s1", "s2")}, names=["id", "time"]
    )
    for name in ("s0", "s1", "s2"):
        one = fc.predict(rows.loc[[name]])
        np.testing.assert_allclose(one, fc.forecast().loc[name, "y"], rtol=1e-10)


# -- inputs ----------------------------------------------------------------------------------------


def test_it_learns_season_and_level():
    t = np.arange(400)
    parts = {
        k: pd.DataFrame({"y": (10 + k) * np.exp(0.3 * np.sin(t * np.pi / 6) + 0.2 * (t % 24 > 11))})
        for k in range(3)
    }
    df = pd.concat(parts, names=["id", "t"])
    train = df[df.index.get_level_values(1) < 376]
    test = df[df.index.get_level_values(1) >= 376]
    fc = tiny(horizon=24, lookback=24, seasonality=(12, 24), max_epochs=10).fit(train)
    error = np.abs(fc.forecast().to_numpy() / test.to_numpy() - 1)
    assert error.mean() < 0.01


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_the_unit_of_the_data_does_not_matter(scale):
    df = panel()
    base = tiny().fit(df).forecast()
    np.testing.assert_allclose(tiny().fit(df * scale).forecast() / scale, base, rtol=1e-3)


def test_zeros_and_negatives_are_additive():
    df = wave(level=0.0)
    fc = tiny().fit(df)
    assert fc.mode_ == "additive"
    assert tiny().fit(wave()).mode_ == "multiplicative"
    np.testing.assert_allclose(
        tiny().fit(df + 3.0 - 3.0).forecast(), fc.forecast(), rtol=1e-3, atol=1e-3
    )
    moved = tiny(mode="additive").fit(df + 100.0).forecast() - 100.0
    np.testing.assert_allclose(moved, fc.forecast(), atol=1e-3)
    # a zero after a positive history counts as its smallest value
    later = wave(91).iloc[90:]
    floor = wave()["y"].min()
    zero, least = tiny().fit(wave()).update(later * 0), tiny().fit(wave()).update(later * 0 + floor)
    pd.testing.assert_frame_equal(zero.forecast(), least.forecast())


def test_short_series_go_without_their_season():
    df = pd.concat([panel(), pd.concat({"s9": wave(10, 9)}, names=["id", "time"])])
    fc = tiny().fit(df)
    (net,) = fc.networks_
    np.testing.assert_array_equal(net.seasonal.numpy(), [[1, 1, 1, 1], [1, 1, 1, 0]])
    assert (fc.model_.seasons[1][3] == 0).all()
    assert fc.forecast().notna().all().all()
    assert tiny().fit(wave(14)).seasonality_ == (4,)
    assert tiny(seasonality=None).fit(df).seasonality_ == (24,)  # however short the shortest
    assert tiny().fit(wave(8)).forecast().notna().all().all()


def test_missing_rows_are_masked():
    df = wave()
    holes = df.copy()
    holes.iloc[[5, 30, 31, 32, 70]] = np.nan
    fc = tiny().fit(holes)
    assert np.isfinite(fc.forecast().to_numpy()).all()
    filled = fc.model_.members[0].states.level[[5, 30, 31, 32, 70], 0]
    np.testing.assert_array_equal(filled, fc.model_.members[0].states.level[[4, 29, 29, 29, 69], 0])


def test_several_targets_are_as_many_series():
    df = wave().assign(z=2 * wave(seed=1)["y"])
    fc = tiny().fit(df)
    assert list(fc.forecast().columns) == ["y", "z"]
    assert fc.forecast(quantiles=[0.1, 0.9]).shape == (6, 4)
    assert fc.predict(df).shape == (90, 2)
    assert fc.predict_interval(df).shape == (90, 2, 2)


def test_known_covariates_count_on_their_own_row():
    rng = np.random.default_rng(0)
    df = wave(120, level=0.0)
    X = pd.DataFrame({"a": rng.normal(size=120)}, index=df.index)
    y = df["y"] + 2 * X["a"]
    fc = tiny(max_epochs=5).fit(X[:110], y[:110])
    base = fc.predict(X[110:])
    changed = X[110:].copy()
    changed.iloc[3] += 1.0
    shift = fc.predict(changed) - base
    assert (np.delete(shift, 3) == 0).all()
    assert 1.5 < shift[3] < 2.5
    assert fc.score(X[110:], y[110:]) > 0.8


def test_past_and_static_covariates_are_read():
    df = panel().assign(p=lambda f: f["y"].shift(1), c=lambda f: len(f))
    fc = tiny(target="y", static="c").fit(df)
    spec = fc.networks_[0].spec
    assert (spec.n_past, spec.n_static) == (1, 2)
    assert fc.forecast(horizon=15).notna().all().all()


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_cover_and_stay_positive():
    df = wave(400, level=3.0)
    fc = tiny(validation_fraction=0.3, max_epochs=5).fit(df[:394])
    wide = fc.forecast(quantiles=[0.05, 0.5, 0.95], horizon=12)
    assert (wide.to_numpy() > 0).all()
    assert (np.diff(wide.to_numpy(), axis=1) >= 0).all()
    errors = fc.conformal_.errors
    point = fc.model_.future(fc.panel_, np.array([0]), 6, np.empty((1, 6, 0)))
    spread = fc.conformal_.quantiles(point, np.array([0]), (0.05, 0.95)) - point[..., None]
    inside = (errors >= spread[..., 0]) & (errors <= spread[..., 1])
    assert inside.mean() >= 0.9


def test_pickles_and_describes_itself():
    fc = tiny(n_members=2).fit(panel())
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(fc)).forecast(), fc.forecast())  # noqa: S301
    assert "multiplicative, lookback=8, seasons 4 and 8; 2 member(s)" in repr(fc)


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seasonality": (4, 8, 16)}, "seasonality must be one or two integers >= 1"),
        ({"seasonality": 0}, "seasonality must be one or two integers"),
        ({"dilations": (1, 2)}, "dilations must be blocks of integers"),
        ({"dilations": ()}, "dilations must be blocks"),
        ({"stride": 0}, "stride must be an integer >= 1"),
        ({"tau": 1.0}, "tau must be a number in"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"mode": "log"}, "mode must be one of"),
        ({"horizon": 89}, "the longest series has 90 rows; horizon 89 needs at least 91"),
    ],
)
def test_bad_parameters_say_what_to_do(options, message):
    with pytest.raises(DataError, match=message):
        tiny(**options).fit(wave())


def test_choices_are_kept():
    fc = ESRNNForecaster(horizon=3, **TINY).fit(wave(400))
    assert (fc.seasonality_, fc.lookback_, fc.stride_) == ((24, 168), 168, 24)
    paper = tiny(stride=1, dilations=((1, 4), (24, 168)), max_epochs=1).fit(wave())
    assert paper.networks_[0].stack.dilations == ((1, 4), (24, 168))


# -- parts -----------------------------------------------------------------------------------------


def test_the_loss_is_the_measures():
    rng = np.random.default_rng(0)
    y, f, naive = rng.uniform(1, 9, 50), rng.uniform(1, 9, 50), rng.uniform(1, 2, 50)
    error = torch.tensor(np.log(f) - np.log(y))
    weight = torch.tensor(y / naive)
    relative = 2 * np.abs(f - y) / (f + y)
    scaled = np.abs(f - y) / naive
    half = (relative / 0.3 + scaled) / 2
    for name, expected in (("relative", relative / 0.3), ("scaled", scaled), ("balanced", half)):
        value = hybrid_loss(name, 0.5, error, weight, 0.3)
        assert float(value) == pytest.approx(expected.mean(), rel=1e-12)
    side = 2 * np.where(f < y, 0.3, 0.7)
    value = hybrid_loss("scaled", 0.3, error, weight, 0.3)
    assert float(value) == pytest.approx((side * scaled).mean(), rel=1e-12)
    assert float(pinball(0.3, torch.tensor(f - y))) == pytest.approx(
        (side * np.abs(f - y)).mean(), rel=1e-12
    )


def test_units_are_the_seasonal_naive_errors():
    y = wave(50)["y"].to_numpy()
    table = read_table("test", pd.DataFrame({"y": y}), None, None)
    empty = np.empty((50, 0))
    one = build_panel("test", table.keys, y[:, None], empty, empty, empty, None)
    units = measure(one, np.array([50]), 4, True)
    assert units.naive[0, 0] == pytest.approx(np.abs(y[4:] - y[:-4]).mean())
    assert units.scale[0, 0] == pytest.approx(np.abs(np.log(y[4:] / y[:-4])).mean())
    assert units.relative == pytest.approx((2 * np.abs(y[4:] - y[:-4]) / (y[4:] + y[:-4])).mean())
    none = np.array([0])
    z = units.to(y[None], none)
    np.testing.assert_allclose(units.back(z[..., None], none)[0, :, 0], y, rtol=1e-12)


def test_first_states_are_means_by_phase():
    t = np.arange(16)
    day, week = np.array([1.0, -2.0, 0.5, 0.5]), np.repeat([0.3, -0.3], 4)
    z = 7 + day[t % 4] + week[t % 8]
    z = np.stack([z, np.where(t < 8, z, np.nan)])
    level, seasons = initial_states(z, (4, 8), np.array([[True, True], [True, False]]))
    np.testing.assert_allclose(seasons[0], [day, day], atol=1e-12)
    np.testing.assert_allclose(seasons[1], [week, 0 * week], atol=1e-12)
    np.testing.assert_allclose(level[0], 7.0)


def test_intervals_of_a_series_longer_than_what_is_read_at_once():
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=1700, freq="h")
    y = 50 + 5 * np.sin(np.arange(1700) * np.pi / 6) + rng.normal(size=1700)
    fc = ESRNNForecaster(
        horizon=4, seasonality=12, max_epochs=1, n_batches=3, n_members=1, random_state=0
    ).fit(pd.DataFrame({"y": y}, index=index))
    assert len(fc.conformal_.errors) > 100
    assert (np.diff(fc.forecast(quantiles=[0.05, 0.95]).to_numpy(), axis=1) > 0.5).all()
