"""Series on a graph: neighbours help where they should, the contract is that of the others."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast import GraphGRUForecaster, PanelTimeSeriesSplit
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.graph import aligned
from rnnforecast.nn import GraphNetwork

REASON = "a row's step is its position in an array without an index"  # as of the others
DECLARED = {
    "check_methods_sample_order_invariance": REASON,
    "check_methods_subset_invariance": REASON,
}
IDS = ["a", "b", "c", "d"]


def ring(n):
    """Each node reads the one before it."""
    return np.roll(np.eye(n), -1, axis=1)


def long(wide):
    """A table with a column for each series as a panel."""
    parts = {name: wide[[name]].set_axis(["y"], axis=1) for name in wide}
    return pd.concat(parts, names=["node", "time"])


def diffusion(adjacency, n_rows, seed, share):
    """y_t = share * (D^-1 W) y_{t-1} + noise of deviation 1."""
    rng = np.random.default_rng(seed)
    walk = adjacency / adjacency.sum(1, keepdims=True)
    y = np.zeros((n_rows + 50, len(walk)))
    for t in range(1, len(y)):
        y[t] = share * walk @ y[t - 1] + rng.normal(size=len(walk))
    time = pd.date_range("2024-01-01", periods=n_rows, freq="D")
    return long(pd.DataFrame(y[50:], index=time, columns=list(range(len(walk)))))


def before(df, stamp):
    return df[df.index.get_level_values("time") < stamp]


def split(df, share=0.8):
    """Rows to train on, and those after them."""
    times = df.index.get_level_values("time").unique().sort_values()
    train = before(df, times[int(share * len(times))])
    return train, df.drop(train.index)


SIMULATED = {
    "horizon": 1,
    "lookback": 6,
    "seasonality": 1,
    "hidden_size": 8,
    "n_layers": 1,
    "max_epochs": 20,
    "lr": 0.01,
    "scaler": "series",
}


def error(df, adjacency, **options):
    """Mean absolute error of one step ahead after the training rows."""
    train, test = split(df)
    fc = GraphGRUForecaster(adjacency=adjacency, **{**SIMULATED, **options}).fit(train)
    ahead = fc.rolling_forecast(test).droplevel("origin")
    return float((ahead["y"] - test["y"].reindex(ahead.index)).abs().mean()), fc


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "at_most"), [(0.9, 0.65), (0.5, 0.95)])
def test_neighbours_help_where_they_are_what_drives_a_series(share, at_most, seed):
    # the errors of the best forecast of both kinds are as 0.44 and 0.87 to 1
    graph, df = ring(6), diffusion(ring(6), 400, seed, share)
    own, _ = error(df, np.eye(6), random_state=seed)
    told, _ = error(df, graph, random_state=seed)
    best = np.sqrt(2 / np.pi)
    assert told < at_most * own
    assert told < 1.15 * best


@pytest.mark.parametrize("seed", range(3))
def test_a_learned_graph_finds_the_edges(seed):
    truth = ring(6) > 0
    found, fc = error(diffusion(ring(6), 400, seed, 0.9), None, hops=1, random_state=seed)
    weights = fc.adjacency_.to_numpy()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert weights[truth].min() > weights[~truth].max()
    assert weights[truth].mean() > 3 * weights[~truth].mean()
    assert found < 1.2 * np.sqrt(2 / np.pi)


# == the contract ==================================================================================

QUICK = {
    "horizon": 2,
    "lookback": 6,
    "seasonality": 2,
    "hidden_size": 4,
    "n_layers": 1,
    "max_epochs": 2,
    "random_state": 0,
}
ROADS = pd.DataFrame(
    [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 2], [0, 0, 1, 0]], index=IDS, columns=IDS
)


def quick(**options):
    return GraphGRUForecaster(**{**QUICK, "adjacency": ROADS, **options})


def panel(n=60, freq="D", ids=IDS, seed=0):
    rng = np.random.default_rng(seed)
    time = pd.date_range("2024-01-01", periods=n, freq=freq)
    wave = np.sin(np.arange(n)[:, None] + np.arange(len(ids))) + 0.3 * rng.normal(
        size=(n, len(ids))
    )
    return long(pd.DataFrame(10 * np.arange(1, len(ids) + 1) + wave, index=time, columns=ids))


def rich(n=60):
    """With covariates of every kind and ragged series."""
    df, rng = panel(n), np.random.default_rng(1)
    df["p"], df["x"] = rng.normal(size=(2, len(df)))
    df["day"] = np.where(df.index.get_level_values("time").day_of_week > 4, "rest", "work")
    df["size"] = df.index.get_level_values("node").map(dict(zip(IDS, [1.0, 2.0, 4.0, 8.0])))
    time = df.index.get_level_values("time").unique()
    cut = {"a": time[12:], "b": time, "c": time[:-5], "d": time.delete([20, 21, 40])}
    rows = [(name, stamp) for name, own in cut.items() for stamp in own]
    return df.loc[pd.MultiIndex.from_tuples(rows, names=df.index.names)]


ROLES = {"target": "y", "known": ["x", "day"], "static": "size"}


@pytest.fixture(scope="module")
def fitted():
    df = rich()
    stamp = df.index.get_level_values("time").max() - pd.Timedelta(days=12)
    train = before(df, stamp)
    return quick(**ROLES).fit(train), df, train


def close(a, b, rtol=1e-9):
    assert list(a.index) == list(b.index)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def future(fc):
    index = fc.future_index()
    day = index.get_level_values("time").day_of_year
    return pd.DataFrame({"x": np.sin(day), "day": "work"}, index=index)


def test_ragged_series_are_those_with_unobserved_rows(fitted):
    fc, df, train = fitted
    whole = pd.MultiIndex.from_product([IDS, train.index.get_level_values("time").unique()])
    filled = train.reindex(whole.set_names(train.index.names).sort_values())
    filled["size"] = filled.groupby(level=0)["size"].transform("max")
    other = quick(**ROLES).fit(filled)
    assert [list(n.state_dict()) for n in fc.networks_] == [
        list(n.state_dict()) for n in other.networks_
    ]
    for a, b in zip(fc.network_.parameters(), other.network_.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    ahead = future(fc)
    close(fc.forecast(ahead), other.forecast(ahead))
    # a series that ends early is forecast from its own end, with the rows of the others up to there
    stamp = df.loc["c"].index[-1] + pd.Timedelta(days=1)
    ended, early = (
        copy.deepcopy(fc).update(rows.drop(train.index)) for rows in (df, before(df, stamp))
    )
    one, two = (moved.forecast(future(moved)) for moved in (ended, early))
    close(one.loc[["c"]], two.loc[["c"]])
    assert not one.loc["d"].index.equals(two.loc["d"].index)


def test_rolling_forecasts_are_update_and_forecast(fitted):
    fc, df, train = fitted
    new = df.drop(train.index)
    rolling = fc.rolling_forecast(new, quantiles=[0.1, 0.9])
    moved, seen = copy.deepcopy(fc), train.index.get_level_values("time").max()
    for origin in rolling.index.get_level_values("origin").unique().sort_values():
        rows = before(new, origin + pd.Timedelta(days=1))
        rows = rows[rows.index.get_level_values("time") > seen]
        if len(rows):
            moved.update(rows)
        seen = origin
        expected = rolling[rolling.index.get_level_values("origin") == origin]
        names = expected.index.get_level_values("node").unique()
        ahead = new[["x", "day"]].reindex(moved.future_index())
        ahead["day"] = ahead["day"].fillna("work")  # of series that are not asked for
        found = moved.forecast(ahead.fillna({"x": 0.0}), quantiles=[0.1, 0.9]).loc[names]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_each_time_is_forecast_once_for_all_series(fitted, monkeypatch):
    fc, df, train = fitted
    rows, context = [], GraphNetwork.context

    def counted(self, window, inputs):
        rows.append(len(inputs.targets))
        return context(self, window, inputs)

    monkeypatch.setattr(GraphNetwork, "context", counted)
    new = df.drop(train.index)
    origins = fc.rolling_forecast(new).index.get_level_values("origin").nunique()
    assert sum(rows) == 4 * origins


def test_no_forecast_hears_of_a_later_row_of_any_series(fitted):
    fc, df, train = fitted
    new = df.drop(train.index)
    stamp = new.index.get_level_values("time").min() + pd.Timedelta(days=4)
    spoilt, later = new.copy(), new.index.get_level_values("time") > stamp
    spoilt.loc[later, ["y", "p"]] = 1e6
    good, bad = fc.rolling_forecast(new), fc.rolling_forecast(spoilt)
    known = good.index.get_level_values("origin") <= stamp
    assert known.any() and not known.all()
    np.testing.assert_array_equal(good[known], bad[known])
    assert not np.allclose(good[~known], bad[~known])
    # in-sample values; and a series that ended, while the others went on
    rows = pd.concat([train, before(new, stamp + pd.Timedelta(days=1))])
    one, two = (copy.deepcopy(fc).update(part) for part in (new, spoilt))
    np.testing.assert_array_equal(one.predict(rows), two.predict(rows))
    moved = [copy.deepcopy(fc).update(part.drop("b", level="node")) for part in (new, spoilt)]
    one, two = (each.forecast(future(each)) for each in moved)
    np.testing.assert_array_equal(one.loc["b"], two.loc["b"])
    assert not np.allclose(one.loc["a"], two.loc["a"])
    # but of an earlier one it does
    spoilt = train.copy()
    spoilt.loc[("b", spoilt.loc["b"].index[-1]), "y"] += 5
    moved = fc.forecast(future(fc), history=spoilt) - fc.forecast(future(fc), history=train)
    assert (moved["y"].abs().groupby(level=0).max() > 1e-6).loc[["a", "b", "c"]].all()


def test_a_row_uses_its_own_covariates_alone(fitted):
    fc, df, train = fitted
    ahead = future(fc)
    changed = ahead.copy()
    changed.loc[("a", ahead.loc["a"].index[0]), "x"] = 9.0
    moved = (fc.forecast(changed) - fc.forecast(ahead)).abs()["y"] > 1e-9
    assert moved.tolist() == [True] + [False] * 7
    # the same row twice, with other covariates
    row = train.iloc[[30, 30]].copy()
    row["x"] = [0.0, 9.0]
    twice = fc.predict(row)
    assert twice[0] != twice[1]
    each = [fc.predict(row.iloc[[k]])[0] for k in (0, 1)]
    np.testing.assert_allclose(twice, each, rtol=1e-9)


def test_the_order_of_the_series_is_no_matter(fitted):
    fc, df, train = fitted
    order = ["c", "a", "d", "b"]
    turned = pd.concat([train.loc[[name]] for name in order])
    ahead = future(fc)
    close(fc.forecast(ahead, history=turned).loc[IDS], fc.forecast(ahead, history=train))
    other = quick(**ROLES).fit(turned)
    assert list(other.adjacency_.index) == order
    pd.testing.assert_frame_equal(
        other.adjacency_.loc[IDS, IDS], fc.adjacency_, check_names=False, check_like=True
    )
    close(other.forecast(ahead).loc[IDS], fc.forecast(ahead), rtol=1e-4)  # rounding in training


def test_the_last_rows_validate_for_all_alike_though_a_series_ended_before():
    df = panel()
    df = df.drop(df.loc[["a"]].index[30:])
    one = quick().fit(df)
    other = quick().fit(pd.concat([df.loc[[name]] for name in IDS[::-1]]))
    close(other.forecast().loc[IDS], one.forecast(), rtol=1e-4)
    held = one.conformal_.errors
    assert len(held) == 4 * 5  # origins in the last six rows
    assert np.isnan(held).all((1, 2)).sum() == 5


def test_each_series_has_its_own_unit():
    df = panel()
    fc = quick().fit(df)
    scale = df.index.get_level_values("node").map({"a": 1.0, "b": 1000.0, "c": 0.01, "d": 1.0})
    other = quick().fit(df.mul(scale.to_numpy(), axis=0))
    expected = fc.forecast()
    expected = expected.mul(np.repeat([1.0, 1000.0, 0.01, 1.0], 2), axis=0)
    close(other.forecast(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"n_members": 2},
        {"quantiles": (0.1, 0.9)},
        {"hops": 1, "validation_fraction": 0.0},
        {"n_layers": 2, "dropout": 0.2, "scaler": "series"},
        {"horizon": 20, "lookback": 50},
        {"lookback": None, "seasonality": None},
    ],
)
@pytest.mark.parametrize("adjacency", [ROADS, None])
def test_the_options_of_the_others_work(adjacency, options):
    df = panel()
    fc = quick(adjacency=adjacency, **options).fit(df[df.index.get_level_values(0) != ""])
    ahead = fc.forecast(horizon=25, quantiles=[0.1, 0.5, 0.9])
    assert np.isfinite(ahead).all(axis=None) and (np.diff(ahead) >= 0).all()
    assert (fc.predict_interval(coverage=0.8)[:, 0] < fc.predict()).all()
    again = pickle.loads(pickle.dumps(fc))  # noqa: S301
    np.testing.assert_array_equal(again.forecast(), fc.forecast())
    np.testing.assert_array_equal(clone(fc).fit(df).forecast(), fc.forecast())
    old = fc.adjacency_.copy()
    after = panel(70).drop(df.index)
    before = fc.forecast()
    assert not np.allclose(fc.partial_fit(after).forecast(), before)
    assert (fc.adjacency_.equals(old)) == (adjacency is not None)
    assert fc.forecast().index[0] == ("a", after.index[-1][1] + pd.Timedelta(days=1))
    assert "4 nodes" in repr(fc)


def test_one_series_is_a_gru_and_its_targets_may_be_the_nodes():
    wide = panel()["y"].unstack("node")
    alone = quick(adjacency=None).fit(wide[["a"]])
    assert alone.adjacency_.to_numpy() == 1.0
    assert np.isfinite(alone.forecast()).all(axis=None)
    # other rows of one series, whatever it is called
    assert alone.forecast(history=wide[["b"]].set_axis(["a"], axis=1)).shape == (2, 1)
    fc = quick().fit(wide)  # a graph of the columns
    assert list(fc.adjacency_.columns) == IDS
    np.testing.assert_array_equal(fc.adjacency_, ROADS)
    by_rows = quick().fit(panel())
    np.testing.assert_allclose(
        fc.forecast().to_numpy().T.ravel(), by_rows.forecast()["y"], rtol=1e-4
    )


def test_several_targets_of_several_series():
    df = panel()
    df["z"] = df["y"] ** 2
    fc = quick(target=["y", "z"]).fit(df)
    assert fc.adjacency_.loc[("a", "y"), ("b", "y")] == 1
    assert fc.adjacency_.loc[("a", "y"), ("b", "z")] == 0
    assert fc.adjacency_.index.names == ["node", "target"]
    assert fc.forecast().shape == (8, 2)
    own = quick(target=["y", "z"], adjacency=fc.adjacency_).fit(df)
    np.testing.assert_array_equal(own.forecast(), fc.forecast())
    assert quick(target=["y", "z"], adjacency=None).fit(df).adjacency_.shape == (8, 8)


@pytest.mark.parametrize("kind", ["period", "integers", "none", "trading", "months"])
def test_any_calendar(kind):
    df = panel(80, "MS" if kind == "months" else "B" if kind == "trading" else "D")
    df = df.drop([("a", t) for t in df.loc["a"].index[:7]])
    df = df.drop([("b", t) for t in df.loc["b"].index[[10, 30]]])
    if kind in ("period", "integers"):
        time = df.index.levels[1]
        new = time.to_period("D") if kind == "period" else range(5, 5 + len(time))
        df.index = df.index.set_levels(new, level=1)
    options = {}
    if kind == "none":
        df, options = df.reset_index().drop(columns="time"), {"series_id": "node"}
    fc = quick(adjacency=None, **options).fit(df)
    whole, at = aligned(fc.panel_)
    assert whole.n_series == 4 and len(set(whole.lengths)) == 1
    np.testing.assert_array_equal(
        whole.targets[~np.isnan(whole.targets)], fc.panel_.targets[~np.isnan(fc.panel_.targets)]
    )
    if kind != "none":  # every row has kept its time
        owner = np.repeat(np.arange(4), fc.panel_.lengths)
        assert list(whole.stamps_at(owner, at)) == list(fc.panel_.row_index().get_level_values(1))
    assert np.isfinite(fc.forecast(horizon=3)).all(axis=None)
    assert np.isfinite(fc.predict(df)).all()


def test_series_between_the_steps_of_others_are_refused():
    df = panel(freq="h")
    late = df.loc[["d"]].copy()
    late.index = late.index.set_levels(late.index.levels[1] + pd.Timedelta(minutes=30), level=1)
    with pytest.raises(DataError, match=r"series 'd'.*one grid of time stamps"):
        quick().fit(pd.concat([df.drop("d"), late]))


# == what is refused ===============================================================================


def test_the_series_are_those_of_fit(fitted):
    fc, df, train = fitted
    stranger = train.loc[["a"]].rename(index={"a": "e"}, level=0)
    before = fc.forecast(future(fc))
    for call in (
        lambda: fc.forecast(history=pd.concat([train, stranger])),
        lambda: fc.update(stranger),
        lambda: fc.partial_fit(stranger),
        lambda: fc.rolling_forecast(stranger),
    ):
        with pytest.raises(DataError, match=r"GraphGRUForecaster: series 'e' is new: the graph"):
            call()
    with pytest.raises(DataError, match="series 'b' is missing"):
        fc.forecast(future(fc), history=train.drop("b", level="node"))
    with pytest.raises(DataError, match="move on together"):
        fc.stream()
    np.testing.assert_array_equal(fc.forecast(future(fc)), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adjacency": np.eye(3)}, r"shape \(4, 4\).*Got ndarray of shape \(3, 3\)"),
        ({"adjacency": -np.eye(4)}, r"Got -1.0 in row 'a', column 'a'"),
        ({"adjacency": np.full((4, 4), np.nan)}, "a finite number >= 0"),
        ({"adjacency": ROADS.astype(str).replace("0", "far")}, "a finite number >= 0"),
        ({"adjacency": "near"}, "a finite number >= 0"),
        (
            {"adjacency": ROADS.drop(columns="c")},
            "have their names. Got nan in row 'a', column 'c'",
        ),
        ({"hops": 0}, "hops must be an integer >= 1"),
        ({"cell": "lstm"}, "cell must be 'gru'"),
    ],
)
def test_what_is_no_graph(options, message):
    fc = quick(**options)
    with pytest.raises(DataError, match=message):
        fc.fit(panel())
    assert not hasattr(fc, "panel_")


def test_a_graph_of_more_series_in_another_order_will_do():
    df = panel()
    more = ROADS.reindex(index=["x", *IDS[::-1]], columns=["x", *IDS[::-1]], fill_value=3)
    np.testing.assert_array_equal(
        quick(adjacency=more).fit(df).forecast(), quick().fit(df).forecast()
    )
    np.testing.assert_array_equal(
        quick(adjacency=ROADS.to_numpy()).fit(df).forecast(), quick().fit(df).forecast()
    )


# == scikit-learn ==================================================================================


def test_a_search_over_the_hops():
    df = panel()
    search = GridSearchCV(
        quick(target="y", max_epochs=1), {"hops": [1, 2]}, cv=PanelTimeSeriesSplit(n_splits=2)
    ).fit(df)
    assert search.best_params_["hops"] in (1, 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.forecast().shape == (8, 1)


def declared(estimator):
    return DECLARED


@parametrize_with_checks(
    [GraphGRUForecaster(hidden_size=4, n_layers=1, max_epochs=8, lr=0.03, random_state=0)],
    expected_failed_checks=declared,
)
def test_scikit_learn(estimator, check):
    check(estimator)
