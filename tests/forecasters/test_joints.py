"""The joints of the house: a cell and an output of a few lines work everywhere; any history, any
series, however short; and nothing sees what comes after its origin.

The learner alone, on a source without windows, is in ``tests/training/test_learner.py``.
"""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from torch import nn
from torch.nn import functional

from rnnforecast import DeepGRUForecaster, DeepRNNForecaster, ESRNNForecaster, SegmentRNNForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.nn import CELLS, Cell, RecurrentStack
from rnnforecast.outputs import Forecast, Output, masked_mean
from rnnforecast.training import Learner

COMMON = {"horizon": 3, "hidden_size": 4, "max_epochs": 2, "random_state": 0}
QUICK = {
    "deep": (DeepGRUForecaster, {"lookback": 8, "seasonality": 1, "n_layers": 1}),
    "deep, joint and dense": (
        DeepRNNForecaster,
        {"lookback": 8, "seasonality": 4, "channels": "joint", "training": "dense"},
    ),
    "segment": (SegmentRNNForecaster, {"lookback": 8, "segment": 2, "seasonality": 4}),
    "es": (
        ESRNNForecaster,
        {"lookback": 8, "seasonality": 4, "n_batches": 4, "n_members": 1},
    ),
}
ALL = pytest.mark.parametrize("kind", QUICK)


def quick(kind, **options):
    cls, own = QUICK[kind]
    return cls(**{**COMMON, **own, **options})


def wave(n=90, seed=0, columns=("y",), level=5.0, start="2024-01-01"):
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    values = np.sin(t * np.pi / 2 + np.arange(len(columns))) + 0.2 * rng.normal(
        size=(n, len(columns))
    )
    index = pd.date_range(start, periods=n, freq="D")
    return pd.DataFrame(level + values, index=index, columns=list(columns))


def panel(lengths=(90, 80, 70), **options):
    """Series that end together."""
    n = max(lengths)
    parts = {f"s{k}": wave(n, k, **options).iloc[n - m :] for k, m in enumerate(lengths)}
    return pd.concat(parts, names=["id", "time"])


def head(df, n):
    return df.groupby(level=0, sort=False).head(n)


def weights(fc):
    return [{k: v.numpy().tobytes() for k, v in n.state_dict().items()} for n in fc.networks_]


def close(a, b, rtol=1e-10):
    assert a.columns.equals(b.columns)
    assert list(a.index) == list(b.index) and a.index.names == b.index.names
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


# == a cell with nothing but start and step ========================================================


class Leaky(Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = nn.Linear(input_size + hidden_size, 2 * hidden_size)

    def start(self, batch):
        return torch.zeros(batch, self.hidden_size), torch.ones(batch, self.hidden_size)

    def step(self, x, state):
        h, c = state
        gate, new = self.read(torch.cat([x, h], -1)).chunk(2, -1)
        c = c + torch.sigmoid(gate) * (torch.tanh(new) - c)
        return torch.tanh(c), (torch.tanh(c), c)


CELL_USERS = {
    "stacked": DeepRNNForecaster(lookback=8, n_layers=2, residual=True),
    "both directions": DeepRNNForecaster(lookback=8, n_layers=2, bidirectional=True, dropout=0.1),
    "segments": DeepRNNForecaster(lookback=8, seasonality=4, n_layers=1),
    "dense": DeepRNNForecaster(lookback=8, n_layers=1, training="dense"),
    "segment-wise": SegmentRNNForecaster(lookback=8, segment=2),
    "hybrid": ESRNNForecaster(
        lookback=8, seasonality=4, dilations=((1, 2), (3,)), n_batches=10, n_members=1
    ),
}


@pytest.mark.parametrize("name", CELL_USERS)
def test_a_cell_of_a_few_lines_trains_in_every_network(name):
    df = panel()
    fc = clone(CELL_USERS[name]).set_params(**{**COMMON, "max_epochs": 4}, cell=Leaky, lr=0.02)
    still = clone(fc).set_params(max_epochs=1, lr=1e-12).fit(df).network_
    fc.fit(df)
    losses = fc.history_.train_loss
    assert losses[-1] < losses[0]
    moved = dict(fc.network_.named_parameters())
    cells = [n for n, _ in still.named_parameters() if n.endswith("read.weight")]
    assert len(cells) >= 1
    for parameter, value in still.named_parameters():
        if parameter in cells:  # the gradient came to every cell
            assert (moved[parameter] - value).abs().max() > 1e-4
    assert np.isfinite(fc.forecast(horizon=7).to_numpy()).all()
    again = pickle.loads(pickle.dumps(fc))  # noqa: S301
    np.testing.assert_array_equal(again.forecast(), fc.forecast())
    assert weights(clone(fc).fit(df)) == weights(fc)
    assert "Leaky" in repr(fc)


@pytest.mark.parametrize("user", ["stacked", "both directions", "segment-wise", "hybrid"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_trains_in_every_network(cell, user):
    df = panel((40, 36))
    fc = clone(CELL_USERS[user]).set_params(**{**COMMON, "max_epochs": 1}, cell=cell)
    if user == "hybrid":
        fc.set_params(n_batches=2)
    ahead = fc.fit(df).forecast(horizon=7)
    assert np.isfinite(ahead.to_numpy()).all()
    again = pickle.loads(pickle.dumps(fc))  # noqa: S301
    np.testing.assert_array_equal(again.forecast(horizon=7), ahead)
    assert weights(clone(fc).fit(df)) == weights(fc)


@pytest.mark.parametrize(
    ("cell", "segment", "scaler"),
    [
        *((Leaky, segment, scaler) for segment in (1, 3) for scaler in ("window", None)),
        *((cell, *options) for cell in CELLS for options in ((1, "window"), (3, None))),
    ],
)
def test_it_streams_equal_to_encoding_again(cell, segment, scaler):
    df = wave(120, columns=("y", "z", "p"))
    roles = {"cell": cell, "target": ["y", "z"], "n_layers": 2}
    fc = DeepRNNForecaster(**COMMON, **roles, lookback=9, segment=segment, scaler=scaler)
    fc.fit(df[:90])
    stream = fc.stream()
    close(stream.forecast(horizon=7), fc.forecast(horizon=7))
    for row in df[90:].to_numpy():
        stream.update(row[:2], past=row[2:])
    # all rows since the stream was opened, encoded at once
    network = fc.network_
    scaled = torch.as_tensor(fc.scale_.targets(df[["y", "z"]].to_numpy()[None, 81:], np.array([0])))
    past = torch.as_tensor(fc.scale_.past(df[["p"]].to_numpy()[None, 81:]))
    with torch.no_grad():
        first = network.normalise(scaled[:, :9])
        values = (scaled - first.centre) / first.scale
        expected = network.encode(values, ~torch.isnan(values), past)[1]
    (encoder,) = stream._encoders
    np.testing.assert_allclose(encoder.encoded, expected, rtol=0, atol=1e-5)
    if cell not in ("mlstm", "lru"):  # the first tensor of their state is not their output
        np.testing.assert_allclose(stream.hidden_[-1], expected, rtol=0, atol=1e-5)
    later = copy.deepcopy(fc).update(df[90:]).forecast(horizon=7)
    close(stream.refresh().forecast(horizon=7), later)


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2},
        {"n_layers": 3, "residual": True},
        {"dilations": ((1, 2), (3,)), "residual": True},
    ],
)
def test_it_carries_its_state_across_chunks(options):
    torch.manual_seed(0)
    stack = RecurrentStack(Leaky, 3, 4, **options).double()
    x = torch.randn(2, 17, 3).double()
    whole, last = stack(x)
    parts, state = [], None
    for chunk in x.split([1, 5, 4, 7], 1):
        out, state = stack.scan(chunk, state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(last, whole[:, -1])
    # by hand, a layer at a time
    if options == {"n_layers": 2}:
        rows = x
        for cell in stack.layers:
            h, outs = cell.start(2), []
            h = tuple(s.double() for s in h)
            for t in range(17):
                out, h = cell.step(rows[:, t], h)
                outs.append(out)
            rows = torch.stack(outs, 1)
        torch.testing.assert_close(rows, whole)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dilations", [None, ((1, 2), (3,))])
def test_it_respects_the_lengths_of_padded_sequences(bidirectional, dilations):
    torch.manual_seed(0)
    options = {"n_layers": 2, "bidirectional": bidirectional, "dilations": dilations}
    stack = RecurrentStack(Leaky, 3, 4, **options).double()
    x, lengths = torch.randn(4, 9, 3).double(), torch.tensor([9, 1, 4, 7])
    x[torch.arange(9) >= lengths[:, None]] = torch.nan  # must not be read
    outputs, last = stack(x, lengths)
    for k, n in enumerate(lengths.tolist()):
        alone, end = stack(x[k : k + 1, :n])
        torch.testing.assert_close(outputs[k : k + 1, :n], alone)
        torch.testing.assert_close(last[k : k + 1], end)
        assert (outputs[k, n:] == 0).all()
    if not bidirectional:  # the state goes on from each row's own end
        _, state = stack.scan(x, None, lengths)
        more = torch.randn(4, 2, 3).double()
        after, _ = stack.scan(more, state)
        for k, n in enumerate(lengths.tolist()):
            both = torch.cat([x[k : k + 1, :n], more[k : k + 1]], 1)
            torch.testing.assert_close(after[k : k + 1], stack(both)[0][:, n:])


def test_a_cell_that_is_none_is_refused():
    for cls in (DeepRNNForecaster, SegmentRNNForecaster, ESRNNForecaster):
        for cell in ("transformer", nn.GRUCell, Leaky(2, 3)):
            with pytest.raises(DataError, match=f"{cls.__name__}: cell must be one of"):
                cls(cell=cell).fit(wave())


# == an output of a few lines ======================================================================


class Laplace(Forecast):
    def __init__(self, centre, width):
        self.centre, self.width = centre, width

    @property
    def median(self):
        return self.centre

    def quantile(self, levels):
        side = torch.tensor(levels, dtype=torch.float64).to(self.centre) - 0.5
        z = -side.sign() * torch.log1p(-2 * side.abs())
        return self.centre[..., None] + self.width[..., None] * z

    def sample(self, n, generator=None):
        side = torch.rand((n, *self.centre.shape), generator=generator).to(self.centre) - 0.5
        return self.centre - self.width * side.sign() * torch.log1p(-2 * side.abs())

    def stretched(self, factor):
        return Laplace(self.centre, self.width * factor)


class LaplaceOutput(Output):
    n_params = 2

    def forecast(self, raw, location, scale):
        return Laplace(raw[..., 0] * scale + location, functional.softplus(raw[..., 1]) * scale)

    def loss(self, forecast, truth):
        mask = ~torch.isnan(truth)
        error = (forecast.centre - torch.where(mask, truth, 0.0)).abs()
        return masked_mean(torch.log(2 * forecast.width) + error / forecast.width, mask)


LEVELS = (0.01, 0.25, 0.5, 0.75, 0.9, 0.99)


@pytest.fixture(scope="module", params=QUICK)
def laplace(request):
    """Fitted on two targets, additive and with negative values, and a known covariate."""
    df = wave(110, columns=("y", "z", "x"), level=0.0)
    roles = {"target": ["y", "z"], "known": "x"}
    fc = quick(request.param, output=LaplaceOutput(), **roles, max_epochs=3, lr=0.02)
    return fc.fit(df[:90]), df


def test_an_output_trains_and_its_quantiles_are_scipys(laplace):
    fc, df = laplace
    losses = fc.history_.train_loss
    assert losses[-1] < losses[0]
    q = fc.forecast(df[90:], quantiles=LEVELS, horizon=7)
    point = fc.forecast(df[90:], horizon=7)
    for target in ("y", "z"):
        own = q[target]
        np.testing.assert_allclose(own[0.5], point[target])
        width = (own[0.75] - own[0.5]) / stats.laplace.ppf(0.75)
        assert (width > 0).all() and len(np.unique(width)) > 1
        for level in LEVELS:
            expected = stats.laplace.ppf(level, own[0.5], width)
            np.testing.assert_allclose(own[level], expected, rtol=1e-9)
    assert fc.output is not fc.output_ and isinstance(fc.output_, LaplaceOutput)


def test_its_intervals_are_the_same_at_both_doors(laplace):
    fc, df = laplace
    q = fc.forecast(df[90:], quantiles=[0.05, 0.5, 0.95], horizon=20)
    interval = fc.predict_interval(df[90:], coverage=0.9)
    asked = fc.predict_quantiles(df[90:], [0.95, 0.5])
    for j, target in enumerate(("y", "z")):
        np.testing.assert_allclose(interval[:, j], q[target][[0.05, 0.95]], rtol=1e-9)
        np.testing.assert_allclose(asked[:, j], q[target][[0.95, 0.5]], rtol=1e-9)
    np.testing.assert_allclose(fc.predict(df[90:]), fc.forecast(df[90:], horizon=20), rtol=1e-9)
    inside = fc.predict_interval(df[60:90])
    assert (inside[..., 0] < inside[..., 1]).all()
    # beyond the horizon the spread grows by a power of the step, at most its root
    spread = (q["y"][0.95] - q["y"][0.05]).to_numpy()
    growth = np.clip(np.log(spread[2] / spread[0]) / np.log(3), 0, 0.5)
    factor = (np.arange(4, 21) / 3) ** growth
    np.testing.assert_allclose(spread[3:], spread[2] * factor, rtol=1e-9)


def test_its_samples_have_its_distribution(laplace):
    fc, df = laplace
    drawn = fc.sample(4000, df[90:], random_state=3)
    assert drawn.columns.names == ["target", "sample"] and drawn.shape == (3, 8000)
    pd.testing.assert_frame_equal(drawn, fc.sample(4000, df[90:], random_state=3))
    assert not drawn.equals(fc.sample(4000, df[90:], random_state=4))
    q = fc.forecast(df[90:], quantiles=[0.5, 0.75])
    for target in ("y", "z"):
        centre = q[target][0.5].to_numpy()
        width = (q[target][0.75].to_numpy() - centre) / stats.laplace.ppf(0.75)
        z = (drawn[target].to_numpy() - centre[:, None]) / width[:, None]
        for row in z:
            assert stats.kstest(row, "laplace").pvalue > 1e-3
        # the mean, which is the median of this one
        error = drawn[target].mean(axis=1).to_numpy() - centre
        assert (np.abs(error) < 5 * width * np.sqrt(2 / 4000)).all()


def test_its_mean_comes_with_it(laplace):
    fc, df = laplace
    known = fc.panel_.known[None, 87:90]
    origins = np.array([90])
    forecast = fc._forecast(fc.panel_, np.array([0]), origins, 3, known)
    assert forecast.mean.shape == (1, 3, 2)
    np.testing.assert_allclose(forecast.mean, forecast.median, rtol=1e-6, atol=0.05)


def test_it_rolls_over_origins_and_moves_on(laplace):
    fc, df = laplace
    whole = fc.rolling_forecast(df[90:], quantiles=[0.1, 0.5, 0.9], stride=4)
    moved = copy.deepcopy(fc)
    for origin in range(90, 108, 4):
        moved.update(df[len(moved.panel_.targets) : origin]) if origin > 90 else None
        expected = moved.forecast(df[origin:], quantiles=[0.1, 0.5, 0.9])
        close(whole.loc[df.index[origin - 1]], expected)
    assert weights(moved) == weights(fc)


@ALL
def test_members_of_an_output_are_averaged_number_by_number(kind):
    df = wave(80, level=0.0)
    fc = quick(kind, output=LaplaceOutput(), n_members=3, aggregate="median").fit(df)
    each = []
    for network in fc.networks_:
        one = copy.copy(fc)
        one.networks_ = [network]
        each.append(one.forecast(quantiles=[0.5, 0.75])["y"].to_numpy())
    each = np.stack(each)
    centre, width = np.median(each[..., 0], 0), np.median(each[..., 1] - each[..., 0], 0)
    found = fc.forecast(quantiles=[0.5, 0.75])["y"].to_numpy()
    np.testing.assert_allclose(found, np.stack([centre, centre + width], 1), rtol=1e-9)


def test_where_level_and_seasons_multiply_an_output_is_on_the_logarithm():
    fc = quick("es", output=LaplaceOutput(), max_epochs=3).fit(wave(90))
    assert fc.mode_ == "multiplicative"
    logs = np.log(fc.forecast(quantiles=LEVELS)["y"])
    width = (logs[0.75] - logs[0.5]) / stats.laplace.ppf(0.75)
    for level in LEVELS:
        np.testing.assert_allclose(logs[level], stats.laplace.ppf(level, logs[0.5], width))
    assert (fc.sample(50, random_state=0).to_numpy() > 0).all()


@ALL
def test_an_output_that_is_none_is_refused(kind):
    with pytest.raises(DataError, match="output must be an rnnforecast.outputs.Output or None"):
        quick(kind, output="laplace").fit(wave())


# == ragged panels =================================================================================


def weekly(n_series=50, n=200, seed=0):
    rng = np.random.default_rng(seed)
    parts = {}
    for k in range(n_series):
        t = np.arange(n)
        y = 20 + k + 4 * np.sin(2 * np.pi * (t + k) / 7) + rng.normal(size=n)
        parts[f"s{k}"] = pd.DataFrame({"y": y}, pd.date_range("2024-01-01", periods=n))
    return pd.concat(parts, names=["id", "time"])


def short(rows, name="short"):
    """A series of some rows that ends where those of ``weekly(n=193)`` end."""
    df = weekly(1, 193, seed=9).iloc[-rows:]
    return df.rename(index={"s0": name}, level="id")


def error_of(fc, truth):
    ahead = fc.forecast()["y"]
    return float((ahead.loc[truth.index] - truth["y"]).abs().mean())


@pytest.mark.parametrize(
    "cls", [DeepGRUForecaster, SegmentRNNForecaster, ESRNNForecaster], ids=lambda c: c.__name__
)
def test_one_short_series_shortens_nobodys_look_back(cls):
    df = weekly()
    train, truth = head(df, 193), df.drop(head(df, 193).index)
    options = {"horizon": 7, "max_epochs": 2, "random_state": 0, "hidden_size": 8}
    if cls is ESRNNForecaster:
        options |= {"n_members": 1, "n_batches": 30}
    fc = cls(**options).fit(train)
    ragged = clone(fc).fit(pd.concat([train, short(15)]))
    assert ragged.lookback_ == fc.lookback_ >= 14
    assert ragged.seasonality_ == fc.seasonality_
    before, after = error_of(fc, truth), error_of(ragged, truth)
    assert after < 1.1 * before  # the noise of one more series in 51
    assert np.isfinite(ragged.forecast().loc["short"].to_numpy()).all()


@ALL
@pytest.mark.parametrize("known", [False, True])
def test_series_of_a_few_rows_are_fitted_and_forecast_with_the_others(kind, known):
    df = pd.concat([panel(), *(short(n, f"{n} rows") for n in (15, 4, 3, 1))])
    if known:
        df["x"] = np.random.default_rng(0).normal(size=len(df))
    fc = quick(kind, target="y", known="x" if known else None).fit(df)
    assert fc.lookback_ == 8
    assert fc.n_untrained_ == 2  # a window needs a row to look back on and a horizon of three
    future = None
    if known:
        future = pd.DataFrame({"x": 0.5}, index=fc.future_index(7))
    ahead = fc.forecast(future, horizon=7, quantiles=[0.1, 0.5, 0.9])
    assert len(ahead) == 7 * 7 and np.isfinite(ahead.to_numpy()).all()
    assert np.isfinite(fc.predict(df)).all()
    # the rows of no neighbour are read: alone on its history a series has the same forecast
    for name in ("1 rows", "3 rows", "4 rows", "15 rows"):
        own = fc.forecast(
            None if future is None else future.loc[[name]],
            history=df.loc[[name]],
            horizon=7,
            quantiles=[0.1, 0.5, 0.9],
        )
        close(own, ahead.loc[[name]], rtol=1e-9)


@ALL
def test_the_first_rows_of_a_series_have_in_sample_values(kind):
    df = wave(60)
    fc = quick(kind).fit(df)
    values = fc.predict(df)
    assert np.isfinite(values).all()
    for n in (1, 2, 5):
        ahead = fc._forecast(fc.panel_, np.array([0]), np.array([n]), 1, np.empty((1, 1, 0)))
        np.testing.assert_allclose(ahead.point.item(), values[n], rtol=1e-10)


@ALL
def test_a_panel_of_short_series_alone(kind):
    df = panel((9, 6, 2, 1))
    fc = quick(kind, lookback=20).fit(df)
    assert np.isfinite(fc.forecast(horizon=5).to_numpy()).all()
    assert np.isfinite(fc.predict_interval(df)).all()


def test_one_short_series_shortens_no_stretch_of_dense_training(monkeypatch):
    widths, fit = [], Learner.fit

    def spy(self, *args):
        (batch, *_) = self.source.epoch(torch.Generator())
        widths.append(batch.inputs.targets.shape[1])
        return fit(self, *args)

    monkeypatch.setattr(Learner, "fit", spy)
    for df in (panel(), pd.concat([panel(), short(5)])):
        quick("deep", training="dense").fit(df)
    assert widths == [12, 12]  # half a look-back more than a window


def test_a_series_needs_one_observed_row():
    df = panel()
    df.loc["s1", "y"] = np.where(np.arange(80) == 60, 5.0, np.nan)
    for kind in QUICK:
        fc = quick(kind).fit(df)
        assert np.isfinite(fc.forecast(quantiles=[0.1, 0.9]).to_numpy()).all()
    df.loc["s1", "y"] = np.nan
    with pytest.raises(DataError, match=r"series 's1'.*no observed value"):
        quick("deep").fit(df)


@pytest.mark.parametrize("kind", ["deep", "deep, joint and dense"])
def test_short_series_stream(kind):
    df = panel((90, 80, 3))
    fc = quick(kind).fit(df)
    stream = fc.stream()
    close(stream.forecast(horizon=5), fc.forecast(horizon=5))
    for values in ([5.0, 6.0, np.nan], [np.nan, 4.0, 20.0]):
        stream.update(values)
    rows = pd.DataFrame({"y": [5.0, np.nan, 6.0, 4.0, np.nan, 20.0]}, index=fc.future_index(2))
    close(stream.refresh().forecast(), copy.deepcopy(fc).update(rows).forecast())


# == any history, and series never seen ============================================================


def rich(lengths=(90, 80, 70), seed=0):
    """Two targets, a past and a known covariate, numbers and text; and what is constant."""
    df = panel(lengths, columns=("y", "z", "p", "x"))
    rng = np.random.default_rng(seed)
    df["day"] = df.index.get_level_values("time").day_name()  # known
    df["mood"] = rng.choice(["bad", "fair", "good"], len(df))  # past
    number = df.index.get_level_values("id").str[1:].astype(int)
    df["size"] = number * 1.5  # static
    df["kind"] = np.where(number % 2, "shop", "web")
    df["z"] += 2.0 * (df["day"] == "Sunday")
    return df


ROLES = {"target": ["y", "z"], "known": ["x", "day"], "static": ["size", "kind"]}
KNOWN = ["x", "day"]


def renamed(df, add=""):
    return df.rename(index=lambda name: f"{name}{add}", level="id")


def after(df, stamp, n=7):
    """The next rows of the known covariates of every series."""
    time = df.index.get_level_values("time")
    return df[(time > stamp) & (time <= stamp + pd.Timedelta(days=n))][KNOWN]


@pytest.fixture(scope="module", params=QUICK)
def fitted(request):
    df = rich()
    end = df.index.get_level_values("time").max()
    cut = end - pd.Timedelta(days=10)
    train = df[df.index.get_level_values("time") <= cut]
    return quick(request.param, **ROLES).fit(train), df, train, cut


def test_categories_are_read(fitted):
    fc, df, train, cut = fitted
    kinds = {c.name: (c.role, c.kind) for c in fc.panel_.columns}
    assert kinds["day"] == ("known", "category") and kinds["mood"] == ("past", "category")
    assert kinds["kind"] == ("static", "category") and kinds["size"] == ("static", "number")
    future = after(df, cut)
    other = future.assign(day="Sunday")
    assert not np.allclose(fc.forecast(future, horizon=7), fc.forecast(other, horizon=7))
    unseen = fc.forecast(future.assign(day="Doomsday"), horizon=7)
    assert np.isfinite(unseen.to_numpy()).all()


@pytest.mark.parametrize("quantiles", [None, [0.1, 0.9]])
def test_the_rows_of_fit_as_history_are_the_forecast(fitted, quantiles):
    fc, df, train, cut = fitted
    future = after(df, cut)
    options = {"horizon": 7, "quantiles": quantiles}
    expected = fc.forecast(future, **options)
    before = {name: id(value) for name, value in vars(fc).items()}
    close(fc.forecast(future, history=train, **options), expected, rtol=1e-12)
    assert {name: id(value) for name, value in vars(fc).items()} == before
    # in another order of series, and of columns
    turned = train.loc[["s2", "s0", "s1"], train.columns[::-1]]
    found = fc.forecast(future, history=turned, **options)
    close(found.loc[["s0", "s1", "s2"]], expected, rtol=1e-9)


def test_series_never_seen(fitted):
    fc, df, train, cut = fitted
    future = after(df, cut)
    new, ahead = renamed(train, "*"), renamed(future, "*")
    found = fc.forecast(ahead, history=new, horizon=7)
    assert list(found.index) == list(ahead.index) and found.index.names == ["id", "time"]
    if not isinstance(fc, ESRNNForecaster):  # which has coefficients of every series it knows
        np.testing.assert_allclose(found, fc.forecast(future, horizon=7), rtol=1e-10)
    # each from its own rows alone, wherever they end, in its own unit
    one = new.loc[["s1*"]].iloc[:-5]
    stamp = one.index[-1][1]
    alone = fc.forecast(renamed(after(df, stamp), "*").loc[["s1*"]], history=one, horizon=5)
    assert alone.index[0][1] == stamp + pd.Timedelta(days=1)
    beside = pd.concat([new.loc[["s0*"]], one])
    both_ahead = pd.concat([ahead.loc[["s0*"]], renamed(after(df, stamp), "*").loc[["s1*"]]])
    both = fc.forecast(both_ahead, history=beside, horizon=5)
    close(both.loc[["s1*"]], alone)
    assert np.isfinite(fc.sample(5, ahead, history=new, random_state=0).to_numpy()).all()
    # what is constant comes with it
    other = fc.forecast(ahead, history=new.assign(kind="shop", size=9.0), horizon=7)
    assert not np.allclose(other, found)


def test_a_history_without_its_columns_is_refused(fitted):
    fc, df, train, cut = fitted
    for column in ("y", "p", "x", "kind"):
        with pytest.raises(DataError, match=column):
            fc.forecast(after(df, cut), history=train.drop(columns=column), horizon=7)
    with pytest.raises(DataError, match="known covariates"):
        fc.forecast(history=train)
    with pytest.raises(DataError, match="known covariates"):
        fc.forecast(after(df, cut, 2), history=train)
    with pytest.raises(DataError, match="no observed value"):
        fc.forecast(after(df, cut), history=train.assign(y=np.nan))


@ALL
def test_newer_rows_as_history_are_update_and_forecast(kind):
    df = panel((100, 90, 80))
    train = head(df, 70)
    options = {} if kind == "es" else {"scaler": None}
    fc = quick(kind, **options).fit(train)
    moved = copy.deepcopy(fc).update(df.drop(train.index))
    if kind == "es":  # whose scale is always that of the rows
        moved.scale_ = moved.scale_.on(moved.panel_)
        fc.networks_[0].logits[:] = fc.networks_[0].logits.mean(1, keepdim=True)
        moved.networks_ = fc.networks_
    close(fc.forecast(history=df, horizon=8), moved.forecast(horizon=8))
    # windows hold the last rows alone
    if kind != "es":
        last = df.groupby(level=0).tail(8)
        close(fc.forecast(history=last, horizon=8), moved.forecast(horizon=8))


@pytest.mark.parametrize("kind", ["deep", "segment"])
def test_a_history_is_measured_in_its_own_unit(kind):
    df = panel()
    fc = quick(kind).fit(df)
    plain = fc.forecast(history=df)
    close(fc.forecast(history=1000 * df + 77), 1000 * plain + 77, rtol=1e-8)


@ALL
def test_the_history_of_one_series_and_of_arrays(kind):
    df = wave(90)
    fc = quick(kind).fit(df[:80])
    close(fc.forecast(history=df[:80]), fc.forecast(), rtol=1e-12)
    later = fc.forecast(history=df[40:])
    assert later.index[0] == df.index[-1] + pd.Timedelta(days=1)
    array = quick(kind).fit(df[:80].to_numpy())
    np.testing.assert_allclose(
        array.forecast(history=df[:80].to_numpy()), array.forecast(), rtol=1e-12
    )
    assert array.forecast(history=df[60:].to_numpy()).shape == (3, 1)


@ALL
def test_a_history_holds_the_targets_beside_x_where_they_came_apart(kind):
    df = wave(100, columns=("y", "x"))
    fc = quick(kind).fit(df[["x"]][:90], df["y"][:90])
    expected = fc.forecast(df[["x"]][90:])
    close(fc.forecast(df[["x"]][90:], history=df[:90]), expected, rtol=1e-12)
    with pytest.raises(DataError, match="history must hold the target 'y'"):
        fc.forecast(df[["x"]][90:], history=df[["x"]][:90])


@ALL
def test_a_history_comes_in_any_container_and_with_any_series(kind):
    polars = pytest.importorskip("polars")
    df = panel()
    long = df.reset_index()
    fc = quick(kind, series_id="id", time="time", target="y").fit(long)
    close(fc.forecast(history=polars.from_pandas(long)), fc.forecast())
    # one series is a panel of one, and a panel is so many times one
    alone = quick(kind).fit(df.loc["s0"])
    several = alone.forecast(history=df)
    close(several.loc["s1"], alone.forecast(history=df.loc["s1"]))
    one = fc.forecast(history=long[long["id"] == "s1"])
    close(one, fc.forecast().loc[["s1"]])
    holes = df.loc["s0"].drop(df.loc["s0"].index[[50, 51, 85]])
    hidden = df.loc["s0"].copy()
    hidden.iloc[[50, 51, 85]] = np.nan
    close(alone.forecast(history=holes), alone.forecast(history=hidden), rtol=1e-12)


@pytest.mark.parametrize("by_week", [False, True])
def test_a_history_has_time_stamps_where_fit_had(by_week):
    df = weekend(24 * 42) if by_week else wave(90)
    fc = quick("deep", lookback=24).fit(df)
    assert (fc.phases_ is not None) == by_week
    with pytest.raises(DataError, match="DeepGRUForecaster.*time stamp"):
        fc.forecast(history=df.to_numpy())
    with pytest.raises(DataError, match="kind seen in fit"):
        fc.forecast(history=df.reset_index(drop=True))
    with pytest.raises(DataError, match="not on the grid"):
        fc.forecast(
            history=df.set_axis(
                df.index[0] + 1.5 * pd.to_timedelta(np.asarray(df.index - df.index[0]))
            )
        )


def weekend(n, seed=0):
    """Hours of a week whose weekend has another day."""
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    y = (
        10
        + 3 * np.sin(np.arange(n) * np.pi / 12)
        + 5 * ((index.day_of_week > 4) & (index.hour > 8))
    )
    return pd.DataFrame({"y": y + 0.1 * np.random.default_rng(seed).normal(size=n)}, index=index)


@pytest.mark.parametrize("training", ["windows", "dense"])
def test_the_calendars_phases_are_those_of_each_origin(training):
    df = weekend(24 * 45)
    train, new = df[: 24 * 42], df[24 * 42 :]
    fc = quick("deep", horizon=24, lookback=24, training=training).fit(train)
    assert fc.phases_ is not None
    whole, moved = fc.rolling_forecast(new, stride=12), copy.deepcopy(fc)
    for k, origin in enumerate(whole.index.get_level_values(0).unique()):
        moved.update(new[12 * (k - 1) : 12 * k]) if k else None
        close(whole.loc[origin], moved.forecast())
        own = copy.copy(moved)
        own.scale_ = fc.scale_.on(moved.panel_)
        close(fc.forecast(history=df[:origin], horizon=30), own.forecast(horizon=30))


@ALL
@pytest.mark.parametrize("given", [24, "frame", [1, 2], None])
def test_what_is_no_future_covariate_is_refused_where_there_are_none(kind, given):
    df = wave(60)
    fc = quick(kind).fit(df[:50])
    if given is None:
        assert len(fc.forecast(None)) == 3
        return
    with pytest.raises(DataError, match=r"forecast holds future rows.*use horizon=.*history="):
        fc.forecast(df if given == "frame" else given)
    with pytest.raises(DataError, match="forecast holds future rows"):
        fc.sample(5, df if given == "frame" else given)


def test_a_number_is_no_future_covariate_where_there_are_some(fitted):
    fc, df, train, cut = fitted
    for given in (24, [1, 2], "tomorrow"):
        with pytest.raises(ValueError, match="array|X must be"):
            fc.forecast(given)


# == rows of new series ============================================================================


def test_update_takes_rows_of_new_series(fitted):
    fc, df, train, cut = fitted
    before = fc.forecast(after(df, cut), horizon=7)
    new = renamed(train.loc[["s1"]], "*")
    fc = copy.deepcopy(fc).update(new)
    assert weights(fc) == weights(fitted[0])
    future = pd.concat([after(df, cut), renamed(after(df, cut).loc[["s1"]], "*")])
    ahead = fc.forecast(future, horizon=7)
    close(ahead.loc[["s0", "s1", "s2"]], before)
    expected = fitted[0].forecast(future.loc[["s1*"]], history=new, horizon=7)
    close(ahead.loc[["s1*"]], expected)
    # rows of old and of new series at once, a new one again, and all move on
    rest = df.drop(train.index)
    more = pd.concat([rest, renamed(rest.loc[["s1"]], "*"), renamed(df.loc[["s0"]], "+")])
    fc.update(more)
    assert fc.cutoff_ == df.index.get_level_values("time").max()
    assert list(fc.panel_.ids) == ["s0", "s1", "s2", "s1*", "s0+"]
    dates = pd.DataFrame({"x": 0.0, "day": "Sunday"}, index=fc.future_index())
    assert np.isfinite(fc.forecast(dates, quantiles=[0.1, 0.9]).to_numpy()).all()
    assert np.isfinite(fc.predict(more)).all()


def test_rows_of_new_series_must_be_whole(fitted):
    fc, df, train, cut = fitted
    before = fc.forecast(after(df, cut), horizon=7)
    new = renamed(train.loc[["s1"]], "*")
    for bad in (new.drop(columns="kind"), new.assign(size=range(len(new))), new.iloc[::-1]):
        with pytest.raises(DataError):
            fc.update(bad)
    close(fc.forecast(after(df, cut), horizon=7), before, rtol=0)


@ALL
def test_rows_of_new_series_with_targets_apart(kind):
    X, y = panel(columns=("x",)), panel()["y"]
    fc = quick(kind).fit(X, y)
    fc.update(renamed(X.loc[["s0"]], "*"), renamed(y.loc[["s0"]], "*"))
    ahead = fc.forecast(pd.DataFrame({"x": 0.5}, index=fc.future_index()))
    both = pd.concat([X, y], axis=1)
    own = fc.forecast(
        pd.DataFrame({"x": 0.5}, index=ahead.loc[["s0*"]].index),
        history=renamed(both.loc[["s0"]], "*"),
    )
    close(ahead.loc[["s0*"]], own)


@ALL
def test_partial_fit_trains_on_rows_of_new_series(kind):
    df = panel((90, 80, 70))
    fc = quick(kind).fit(df)
    old = copy.deepcopy(fc)
    fc.partial_fit(renamed(df.loc[["s0"]], "*") * 2)
    assert weights(fc) != weights(old)
    assert list(fc.panel_.ids) == ["s0", "s1", "s2", "s0*"]
    assert np.isfinite(fc.forecast(quantiles=[0.1, 0.9]).to_numpy()).all()


def test_a_stream_goes_on_with_the_series_it_was_opened_with():
    df = panel()
    stream = quick("deep").fit(df).stream()
    with pytest.raises(DataError, match="series 's0\\*' is new"):
        stream.update(renamed(df.loc[["s0"]].iloc[-1:], "*"))
    assert stream.n_updates == 0


# == leakage at the new doors ======================================================================


def test_rolling_forecasts_are_update_and_forecast(fitted):
    fc, df, train, cut = fitted
    new = df.drop(train.index)
    stranger = renamed(df.loc[["s2"]], "*")
    whole = fc.rolling_forecast(pd.concat([new, stranger]), stride=3, quantiles=[0.1, 0.9])
    time = new.index.get_level_values("time")
    moved, known_to = copy.deepcopy(fc), cut
    for origin in sorted(set(whole.loc["s0"].index.get_level_values("origin"))):
        rows = new[(time > known_to) & (time <= origin)]
        if len(rows):
            moved.update(rows)
        known_to = origin
        expected = moved.forecast(after(df, origin, 3), quantiles=[0.1, 0.9])
        for name in ("s0", "s1", "s2"):
            close(whole.loc[(name, origin)], expected.loc[name])


def test_nothing_before_an_origin_hears_of_what_comes_after_it(fitted):
    """Targets and past covariates after an origin, at every new door, to the last bit."""
    fc, df, train, cut = fitted
    new = df.drop(train.index)
    time = new.index.get_level_values("time")
    origin = cut + pd.Timedelta(days=4)
    spoilt = new.copy()
    later = time > origin
    spoilt.loc[later, ["y", "z", "p"]] = 1e9
    spoilt.loc[later, "mood"] = "bad"
    whole, bad = fc.rolling_forecast(new), fc.rolling_forecast(spoilt)
    origins = whole.index.get_level_values("origin")
    known = origins <= origin
    np.testing.assert_array_equal(whole[known], bad[known])
    assert not np.allclose(whole[~known], bad[~known])
    # in-sample values of rows up to the one after the origin, after update
    one, two = copy.deepcopy(fc).update(new), copy.deepcopy(fc).update(spoilt)
    rows = pd.concat([train, new[time <= origin + pd.Timedelta(days=1)]])
    np.testing.assert_array_equal(one.predict(rows), two.predict(rows))
    # future rows that hold targets: nothing but their known columns is read
    held = new.copy()
    held[["y", "z", "p"]], held["mood"] = -1e9, "never"
    np.testing.assert_array_equal(
        fc.forecast(held, history=train, horizon=7), fc.forecast(new, history=train, horizon=7)
    )
    # a slice is a view of the frame that holds the future too
    ahead = new[KNOWN]
    cut_off = pd.concat([train, spoilt]).loc[train.index]
    np.testing.assert_array_equal(
        fc.forecast(ahead, history=cut_off, horizon=7), fc.forecast(ahead, history=train, horizon=7)
    )


@ALL
def test_one_series_of_a_history_sees_no_other(kind):
    df = panel()
    fc = quick(kind).fit(df)
    new = pd.concat([renamed(df.loc[["s0", "s1"]], "*")])
    spoilt = new.copy()
    spoilt.loc["s0*"] = spoilt.loc["s0*"].to_numpy() ** 3
    one, two = fc.forecast(history=new, horizon=7), fc.forecast(history=spoilt, horizon=7)
    close(one.loc[["s1*"]], two.loc[["s1*"]], rtol=1e-12)
    assert not np.allclose(one.loc["s0*"], two.loc["s0*"])


@ALL
def test_rows_of_a_new_series_change_no_forecast_of_the_others(kind):
    df = panel()
    fc = quick(kind).fit(df)
    stranger = renamed(df.loc[["s0"]], "*") * 1e6
    before, inside = fc.forecast(horizon=7), fc.predict_interval(df)
    fc.update(stranger)
    close(fc.forecast(horizon=7).drop("s0*", level="id"), before, rtol=1e-12)
    np.testing.assert_allclose(fc.predict_interval(df), inside, rtol=1e-12)


# == what the caller has set =======================================================================


@contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@ALL
@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode, doubles])
def test_training_is_the_same_whatever_torchs_state(kind, state):
    def trained():
        df = panel((80, 30), columns=("y", "x"))
        fc = quick(kind, target="y", known="x", n_members=2, n_jobs=2).fit(head(df, 25))
        fc.partial_fit(df.groupby(level=0, sort=False).tail(-25))
        return weights(fc)

    plain = trained()
    with state():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        dtype = torch.get_default_dtype()
        assert trained() == plain
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
        assert torch.get_default_dtype() == dtype


@ALL
@pytest.mark.parametrize(
    ("role", "values"),
    [(r, v) for r in ("past", "known", "static") for v in ((100.0, 200.0), ("a", "b"))]
    + [(r, v) for r in ("past", "known") for v in (("a", None), (np.nan, 3.0))],
)
def test_what_never_varied_in_fit_has_no_effect_later(kind, role, values):
    roles = {} if role == "past" else {role: "c"}
    df = panel((80, 30)).assign(c=values[0])
    fc = quick(kind, target="y", **roles).fit(df)

    def found(value):
        rows = df.assign(c=pd.Series([value] * len(df), df.index, df["c"].dtype))
        if role != "known":
            return fc.forecast(history=rows)
        return fc.forecast(rows.iloc[:6].set_axis(fc.future_index()))

    np.testing.assert_array_equal(found(values[1]), found(values[0]))


@ALL
@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 9), ("lookback", 5), ("target", "z"), ("horizon", 5), ("quantiles", [0.1])],
)
def test_partial_fit_refuses_what_only_fit_can_change(kind, name, value):
    df = wave(60, columns=("y", "z"))
    first = quick(kind, target=["y", "z"], max_epochs=1)
    for fc in (clone(first).fit(df[:50]), clone(first).partial_fit(df[:50])):
        before = fc.set_params(**{name: value}).forecast(horizon=3)
        with pytest.raises(DataError, match=f": {name} was .* in fit.*: call fit anew"):
            fc.partial_fit(df[50:])
        pd.testing.assert_frame_equal(fc.forecast(horizon=3), before)
    same = {name: getattr(first, name), "target": ("y", "z")}  # a tuple is as good as a list
    fc.set_params(**same, lr=0.1, n_members=2)
    fc.partial_fit(df[50:])
