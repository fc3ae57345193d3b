"""The hybrid of smoothing and network: contract, states, and what it must not know."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from rnnforecast import ESRNNForecaster
from rnnforecast.data.scale import Scale
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.series import HybridOutput, SeriesReader, first_states
from rnnforecast.outputs import PointForecast
from rnnforecast.training import Learner

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


def weights(net):
    return {k: v.numpy().tobytes() for k, v in net.state_dict().items()}


def bits(fc):
    return [weights(net) for net in fc.networks_]


def states(fc):
    """Level after every row of every series, side by side and aligned at their ends, and the batch
    that they were read from.
    """
    (net,), panel, cpu = fc.networks_, fc.panel_, torch.device("cpu")
    reader = SeriesReader(panel, fc.scale_, net.spec, fc.place_, 10**6, cpu, torch.float64)
    width = int(panel.lengths.max())
    batch, _ = reader.read(np.arange(panel.n_series), panel.lengths, width)
    terms = net.smooth(batch, batch.values - net.covariates(batch.series, batch.known))
    return terms[0][:, 1:].numpy(), batch


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


def test_calibration_rows_do_not_measure_the_scale_of_their_errors():
    """The errors of the first origin are the same whatever comes after its own rows."""
    df = wave(120)  # of which 12 calibrate
    spoiled = df.copy()
    spoiled.iloc[-6:] += 40.0
    options = {"loss": "scaled", "validation_fraction": 0.1}  # a loss that needs no scale of all
    errors = [tiny(**options).fit(data).conformal_.errors for data in (df, spoiled)]
    assert len(errors[0]) == len(errors[1]) == 7
    np.testing.assert_array_equal(errors[0][0], errors[1][0])
    assert np.abs(errors[0][-1] - errors[1][-1]).min() > 1


def test_calibration_rows_train_no_weight_of_the_network_for_it(monkeypatch):
    df = wave(120)
    moved = df.copy()
    moved.iloc[-12:] *= 2.0
    seen, fit, of, scales = [], Learner.fit, Scale.of, {}

    def spy(self, *args):
        members = fit(self, *args)
        seen.append([weights(member.network) for member in members])
        return members

    monkeypatch.setattr(Learner, "fit", spy)
    # the loss weighs its two measures by all rows of fit: here those of the first fit serve both
    monkeypatch.setattr(Scale, "of", lambda panel, **k: scales.setdefault(str(k), of(panel, **k)))
    first, other = tiny(n_members=2).fit(df), tiny(n_members=2).fit(moved)
    (one, two), (calibrating, same) = seen[::2], seen[1::2]
    assert len(calibrating) == 1 and calibrating == same
    assert one == bits32(first) and one != two  # those that forecast know all rows
    assert calibrating[0] not in one
    assert not np.array_equal(first.conformal_.errors, other.conformal_.errors)


def bits32(fc):
    return [weights(copy.deepcopy(net).float()) for net in fc.networks_]


def test_in_sample_values_come_from_the_rows_before():
    df = wave()
    fc = tiny().fit(df)
    longer = copy.deepcopy(fc).update(wave(100).iloc[90:] * 3)
    np.testing.assert_array_equal(fc.predict(df), longer.predict(df))


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_without_the_network_it_is_the_recursion(known):
    """Level and seasons row by row, as in Smyl 2020, from the rows before each origin."""
    df = wave()
    if known:
        df["x"] = np.random.default_rng(1).normal(size=len(df))
        df["y"] += 0.5 * df["x"]
    fc = tiny(target="y", known="x" if known else None).fit(df)
    (net,) = fc.networks_
    rows, with_network = df[["x"]] if known else df, fc.predict(df[["x"]] if known else df)
    for part in (net.head, net.skip):
        for parameter in part.parameters():
            parameter.zero_()
    scale = fc.scale_
    z = (np.log(df["y"].to_numpy()) - scale.target_loc[0, 0]) / scale.target_scale[0, 0]
    effect = np.zeros(len(z))
    if known:
        x = torch.tensor(scale.known(df[["x"]].to_numpy()))[None]
        effect = net.effect(x)[0, :, 0].numpy()
    alpha, gammas, trusts = (x.numpy()[..., 0] for x in net.coefficients(torch.tensor([0])))
    plain, values = z - effect, fc.predict(rows)
    assert not np.allclose(values, with_network)
    for origin in (3, 14, 40, 89):
        warm = 16 if origin >= 16 else 8 if origin >= 8 else 2  # two of the longest season
        head = z[None, : max(min(warm, (origin - 6) // 2), 1)]
        able = np.array([[origin >= 8], [origin >= 16]])
        (((level,),), *firsts) = first_states(head, (4, 8), able)
        seasons = [list(trust * first[0]) for trust, first in zip(trusts, firsts)]
        for t in range(origin):
            error = plain[t] - level - seasons[0][t] - seasons[1][t]
            level += alpha * error
            for season, gamma, has in zip(seasons, gammas, able[:, 0]):
                season.append(season[t] + gamma * (1 - alpha) * error * has)
        fitted = level + seasons[0][origin] + seasons[1][origin] + effect[origin]
        expected = np.exp(fitted * scale.target_scale[0, 0] + scale.target_loc[0, 0])
        np.testing.assert_allclose(values[origin], expected, rtol=1e-10)


def test_in_sample_values_are_the_networks_one_step_forecasts():
    df = wave()
    fc = tiny().fit(df)
    values, moved = fc.predict(df), copy.copy(fc)
    for origin in (1, 5, 30, 89):
        rows = fc.panel_.targets[:origin]
        moved.panel_ = replace(fc.panel_, targets=rows, indptr=np.array([0, origin]))
        np.testing.assert_allclose(moved.forecast().iloc[0, 0], values[origin], rtol=1e-12)
    whole = fc.rolling_forecast(wave(100)[90:])
    np.testing.assert_allclose(whole.loc[df.index[-1]], fc.forecast(), rtol=1e-12)


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
    # the same weights and scale on the whole history
    whole = copy.deepcopy(fc)
    whole.panel_ = tiny().fit(df).panel_
    pd.testing.assert_frame_equal(whole.forecast(horizon=15), at_once.forecast(horizon=15))
    np.testing.assert_array_equal(states(whole)[0], states(at_once)[0])
    assert bits(fc) == bits(at_once)


def test_a_gap_carries_the_state():
    df = wave()
    fc = tiny().fit(df)
    jumped = copy.deepcopy(fc).update(wave(100).iloc[96:])  # rows 90..95 were not observed
    level = states(jumped)[0][0]
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


# -- trained like the other forecasters ------------------------------------------------------------


def test_trained_quantiles():
    df = panel()
    fc = tiny(quantiles=[0.1, 0.9], n_members=2).fit(df)
    q = fc.forecast(quantiles=[0.1, 0.3, 0.5, 0.9], horizon=15)["y"]
    assert (np.diff(q.to_numpy(), axis=1) >= 0).all() and (q.to_numpy() > 0).all()
    np.testing.assert_allclose(q[0.5], fc.forecast(horizon=15)["y"])
    assert fc.predict_quantiles(df, [0.1, 0.9]).shape == (len(df), 2)
    with pytest.raises(DataError, match="reach beyond the trained ones"):
        fc.forecast(quantiles=[0.05])


def test_early_stopping_keeps_the_best_epoch():
    df = wave(200)
    options = {"early_stopping": True, "lr": 0.1, "max_epochs": 25}
    fc = tiny(**options, patience=2).fit(df)
    history = fc.history_
    best = int(np.argmin(history.val_loss)) + 1
    assert history.best_epoch == best and len(history) == best + 2 < 25
    assert np.isfinite(history.val_loss).all()
    # the rows held out train no weight: only their scale is known (the same here), and the loss
    again = tiny(**options, patience=2).fit(df)
    assert bits(again) == bits(fc)
    long = tiny(**options, patience=24).fit(df)
    np.testing.assert_array_equal(long.history_.train_loss[: len(history)], history.train_loss)


def test_held_out_rows_train_no_weight_where_they_stop_the_training(monkeypatch):
    df = wave(120)
    moved = df.copy()
    moved.iloc[-12:] *= 2.0
    scales, of = {}, Scale.of
    monkeypatch.setattr(Scale, "of", lambda panel, **k: scales.setdefault(str(k), of(panel, **k)))
    one, two = (tiny(early_stopping=True, patience=9).fit(data) for data in (df, moved))
    assert one.history_.train_loss == two.history_.train_loss
    assert one.history_.val_loss != two.history_.val_loss


def test_warm_start_and_partial_fit_go_on_from_the_weights():
    df = panel()
    fc = tiny(n_members=2, warm_start=True, lr=1e-9).fit(df)
    before = copy.deepcopy(fc)
    fc.set_params(random_state=5).fit(df)
    for new, old in zip(fc.networks_, before.networks_):
        for name, value in new.state_dict().items():
            np.testing.assert_allclose(value, old.state_dict()[name], atol=1e-6)
    with pytest.raises(DataError, match="warm_start needs the same architecture"):
        fc.set_params(hidden_size=5).fit(df)
    time = df.index.get_level_values("time")
    more = tiny().fit(df[time < time.max()])
    first = bits(more)
    more.partial_fit(df[time == time.max()])
    assert bits(more) != first and more.n_epochs_ == 1
    assert more.cutoff_ == time.max()


def test_the_weights_do_not_depend_on_the_number_of_jobs():
    one, two = (tiny(n_members=2, n_jobs=n, dropout=0.2).fit(panel()) for n in (1, 2))
    assert bits(one) == bits(two)


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
    batch = states(fc)[1]
    np.testing.assert_array_equal(batch.able, [[1, 1, 1, 1], [1, 1, 1, 0]])
    assert (batch.starts[2][3] == 0).all() and (batch.starts[2][:3] != 0).all()
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
    level = states(fc)[0][0]
    np.testing.assert_array_equal(level[[5, 30, 31, 32, 70]], level[[4, 29, 29, 29, 69]])


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
    assert (len(spec.past), len(spec.static)) == (1, 2)
    assert fc.forecast(horizon=15).notna().all().all()


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_cover_and_stay_positive():
    df = wave(400, level=3.0)
    fc = tiny(validation_fraction=0.3, max_epochs=5).fit(df[:394])
    wide = fc.forecast(quantiles=[0.05, 0.5, 0.95], horizon=12)
    assert (wide.to_numpy() > 0).all()
    assert (np.diff(wide.to_numpy(), axis=1) >= 0).all()
    errors = fc.conformal_.errors
    spread = fc.conformal_.offsets(6, (0.05, 0.95))
    inside = (errors >= spread[..., 0]) & (errors <= spread[..., 1])
    assert inside.mean() >= 0.9


def test_pickles_and_describes_itself():
    fc = tiny(n_members=2).fit(panel())
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(fc)).forecast(), fc.forecast())  # noqa: S301
    assert "multiplicative, lookback=8, seasons 4 and 8" in repr(fc)
    assert "2 members" in repr(fc)


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
        ({"horizon": 89}, "has 90 rows; a row to look back on and horizon 89 need at least 91"),
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
    relative = 2 * np.abs(f - y) / (f + y)
    scaled = np.abs(f - y) / naive
    half = (relative / 0.3 + scaled) / 2

    def loss(name, tau, base):
        # forecasts and truths are logarithms of multiples of the naive error
        forecast, truth = (torch.tensor(np.log(v / naive))[:, None, None] for v in (f, y))
        truth = torch.cat([truth, torch.full_like(truth, torch.nan)])  # unobserved: left out
        forecast = PointForecast(torch.cat([forecast, forecast + 1]))
        return float(HybridOutput(name, tau, base).loss(forecast, truth))

    for name, expected in (("relative", relative / 0.3), ("scaled", scaled), ("balanced", half)):
        assert loss(name, 0.5, 0.3) == pytest.approx(expected.mean(), rel=1e-12)
    side = 2 * np.where(f < y, 0.3, 0.7)
    assert loss("scaled", 0.3, 0.3) == pytest.approx((side * scaled).mean(), rel=1e-7)
    plain = HybridOutput("relative", 0.3, None).loss(  # no logarithms: always scaled
        PointForecast(torch.tensor(f)[:, None, None]), torch.tensor(y)[:, None, None]
    )
    assert float(plain) == pytest.approx((side * np.abs(f - y)).mean(), rel=1e-7)


def test_scales_are_the_seasonal_naive_errors():
    df = wave(50)
    y = df["y"].to_numpy()
    fc = tiny(seasonality=4).fit(df)
    naive = Scale.of(fc.panel_, lag=4)
    assert naive.target_scale[0, 0] == pytest.approx(np.abs(y[4:] - y[:-4]).mean())
    assert fc.scale_.target_scale[0, 0] == pytest.approx(np.abs(np.log(y[4:] / y[:-4])).mean())
    assert fc.scale_.target_loc[0, 0] == pytest.approx(np.log(y).mean())
    exact = (2 * np.abs(y[4:] - y[:-4]) / (y[4:] + y[:-4])).mean()
    assert fc.output_.relative == pytest.approx(exact, rel=1e-2)
    z = fc.scale_.targets(y[None, :, None], np.array([0]))[0, :, 0]
    back = np.exp(z * fc.scale_.target_scale[0, 0] + fc.scale_.target_loc[0, 0])
    np.testing.assert_allclose(back, y, rtol=1e-12)


def test_first_states_are_means_by_phase():
    t = np.arange(16)
    day, week = np.array([1.0, -2.0, 0.5, 0.5]), np.repeat([0.3, -0.3], 4)
    z = 7 + day[t % 4] + week[t % 8]
    z = np.stack([z, np.where(t < 8, z, np.nan)])
    level, *seasons = first_states(z, (4, 8), np.array([[True, True], [True, False]]))
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
