"""Several networks in one call: what each of them is, and how they are averaged."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from rnnforecast import DeepGRUForecaster, DeepLSTMForecaster
from rnnforecast.exceptions import DataError, DivergedError
from rnnforecast.training import seeds_of
from rnnforecast.training.optimizers import Adam

pytestmark = pytest.mark.machine

SMALL = {"horizon": 3, "lookback": 8, "hidden_size": 4, "max_epochs": 2, "random_state": 3}


def panel(n=60, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2024-01-01", periods=n, freq="D")], names=["series", "time"]
    )
    step = np.tile(np.arange(n), 2)
    y = 10 + np.sin(step * 2 * np.pi / 7) + 0.3 * rng.normal(size=2 * n)
    return pd.DataFrame({"y": y, "x": rng.normal(size=2 * n)}, index=index)


DF = panel()
FUTURE = panel(80).groupby(level=0).tail(20)[["x"]]


def fit(df=DF, **options):
    return DeepGRUForecaster(**{"known": "x", **SMALL, **options}).fit(df)


@pytest.fixture(scope="module")
def single():
    return fit()


@pytest.fixture(scope="module")
def several():
    return fit(n_members=3)


def bits(network):
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def alone(fc, k):
    """Member k by itself."""
    twin = copy.copy(fc)
    twin.networks_ = [fc.networks_[k]]
    return twin


def test_the_first_member_is_the_single_model(single, several):
    assert bits(several.networks_[0]) == bits(single.network_) == bits(several.network_)
    assert several.history_.train_loss == single.history_.train_loss
    assert several.history_ is several.histories_[0]
    assert single.networks_ == [single.network_]
    assert len({str(bits(network)) for network in several.networks_}) == 3
    assert len({tuple(h.train_loss) for h in several.histories_}) == 3


@pytest.mark.parametrize("random_state", [5, np.random.RandomState(5), None])
def test_seeds(random_state):
    first = seeds_of(random_state, 4)
    assert len(set(first)) == 4
    if random_state is not None:
        assert first[:1] == seeds_of(5, 1)
        assert first[:2] == seeds_of(5, 2)


@pytest.mark.parametrize("horizon", [None, 7])
@pytest.mark.parametrize("aggregate", ["median", "mean"])
def test_a_forecast_is_the_average_of_the_members_own(several, aggregate, horizon):
    fc = several
    if aggregate == "mean":
        fc = fit(n_members=3, aggregate="mean")
        assert [bits(n) for n in fc.networks_] == [bits(n) for n in several.networks_]
    each = np.stack([alone(fc, k).forecast(FUTURE, horizon=horizon) for k in range(3)])
    expected = getattr(np, aggregate)(each, axis=0)
    np.testing.assert_array_equal(fc.forecast(FUTURE, horizon=horizon), expected)


def test_rows_of_the_past_are_averaged_too(several):
    rows = DF.groupby(level=0).tail(5)
    each = np.stack([alone(several, k).predict(rows) for k in range(3)])
    np.testing.assert_allclose(several.predict(rows), np.median(each, 0), rtol=1e-12)


def test_quantiles_are_averaged_level_by_level():
    fc = fit(n_members=4, quantiles=[0.1, 0.9])
    levels = [0.1, 0.5, 0.9]
    each = np.stack([alone(fc, k).forecast(FUTURE, quantiles=levels) for k in range(4)])
    ours = fc.forecast(FUTURE, quantiles=levels)
    np.testing.assert_array_equal(ours, np.median(each, axis=0))
    assert (np.diff(ours.to_numpy(), axis=1) >= 0).all()


def test_intervals_are_calibrated_on_the_averaged_forecast(several):
    """Errors of the averaged forecast at every origin of the validation rows."""
    errors = several.conformal_.errors  # on the scale of their series
    scale = several.scale_.target_scale
    origins = [(i, p) for i in (0, 1) for p in range(54, 58)]  # the last tenth: 6 rows
    assert errors.shape == (len(origins), 3, 1)
    for (i, p), error in zip(origins, errors):
        rows = several.panel_.series(i)
        ahead = slice(rows.start + p, rows.start + p + 3)
        known = several.panel_.known[ahead][None]
        point = several._forecast(several.panel_, np.array([i]), np.array([p]), 3, known).point
        truth = several.panel_.targets[ahead]
        expected = (truth - point[0].numpy()) / scale[i]
        np.testing.assert_allclose(error, expected, atol=2e-5)


def test_the_weights_do_not_depend_on_the_number_of_jobs(several):
    for n_jobs in (1, 2, -1):
        other = fit(n_members=3, n_jobs=n_jobs, dropout=0.0)
        assert [bits(n) for n in other.networks_] == [bits(n) for n in several.networks_]
    with_dropout = [fit(n_members=3, n_jobs=n, dropout=0.3) for n in (1, 3)]
    assert [bits(n) for n in with_dropout[0].networks_] == [
        bits(n) for n in with_dropout[1].networks_
    ]


def test_pickle_and_clone(several):
    loaded = pickle.loads(pickle.dumps(several))  # noqa: S301
    pd.testing.assert_frame_equal(loaded.forecast(FUTURE), several.forecast(FUTURE))
    assert clone(several).get_params() == several.get_params()


def test_update_moves_all_members_on(several):
    later = copy.deepcopy(several).update(panel(62).groupby(level=0).tail(2))
    assert [bits(n) for n in later.networks_] == [bits(n) for n in several.networks_]
    longer = panel(62)
    anew = clone(several).fit(longer)  # other weights, the same rows
    assert later.forecast(FUTURE).index.equals(anew.forecast(FUTURE).index)


def test_warm_start_goes_on_from_each_member(several):
    fc = copy.deepcopy(several).set_params(warm_start=True, lr=1e-12)
    fc.fit(DF)
    for ours, before in zip(fc.networks_, several.networks_):
        for a, b in zip(ours.parameters(), before.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    more = fc.set_params(n_members=4, lr=1e-12).fit(DF)
    assert len(more.networks_) == 4
    torch.testing.assert_close(more.networks_[2].head.weight, several.networks_[2].head.weight)
    few = fc.set_params(n_members=1).fit(DF)
    assert len(few.networks_) == 1


def test_partial_fit_trains_every_member(several):
    fc = copy.deepcopy(several).partial_fit(panel(62).groupby(level=0).tail(2))
    assert len(fc.networks_) == 3
    assert all(bits(a) != bits(b) for a, b in zip(fc.networks_, several.networks_))
    assert all(len(history) == 1 for history in fc.histories_)


def test_torchs_threads_are_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        fit(n_members=2, n_jobs=2)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_member_that_diverges_is_named_and_nothing_is_left_half_fitted(monkeypatch):
    """The others stop soon: they would train for hours."""
    fc = DeepGRUForecaster(**{**SMALL, "max_epochs": 10**6, "early_stopping": False}, n_members=3)
    step, guilty = Adam.step, []

    def broken(self, lr, limit):
        if not guilty:
            guilty.append(threading.get_ident())
        norm = step(self, lr, limit)
        return norm * torch.inf if threading.get_ident() == guilty[0] else norm

    monkeypatch.setattr(Adam, "step", broken)
    with pytest.raises(
        DivergedError, match=r"member [123] of 3: the gradient norm is inf in epoch"
    ):
        fc.set_params(n_jobs=3).fit(DF[["y"]])
    assert not [name for name in vars(fc) if name.endswith("_")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_members": 0}, "n_members must be an integer >= 1. Got 0"),
        ({"n_members": 2.5}, "n_members must be an integer >= 1. Got 2.5"),
        ({"aggregate": "mode"}, r"aggregate must be one of \['median', 'mean'\]. Got 'mode'"),
        ({"precision": "fp8"}, r"precision must be one of \['float32', 'bf16'\]. Got 'fp8'"),
        ({"n_jobs": 0}, "n_jobs must be -1, positive or None. Got 0"),
        ({"n_jobs": "2"}, "n_jobs must be an integer >= -1 or None. Got '2'"),
    ],
)
def test_unusable_parameters(options, message):
    with pytest.raises(DataError, match=message):
        fit(**options)


# -- precision -------------------------------------------------------------------------------------

has_bf16 = torch.cpu._is_avx512_bf16_supported()


@pytest.mark.skipif(not has_bf16, reason="no bfloat16 instructions")
@pytest.mark.parametrize("cell", [DeepLSTMForecaster, DeepGRUForecaster])
def test_bf16_is_near_float32_and_leaves_no_trace(cell, needs_bf16):
    needs_bf16("lstm" if cell is DeepLSTMForecaster else "gru")
    options = {**SMALL, "hidden_size": 16, "device": "cpu"}
    plain, mixed = cell(**options).fit(DF), cell(**options, precision="bf16").fit(DF)
    assert bits(plain.network_) != bits(mixed.network_)
    np.testing.assert_allclose(mixed.history_.train_loss, plain.history_.train_loss, rtol=2e-2)
    np.testing.assert_allclose(mixed.forecast(), plain.forecast(), rtol=2e-2)
    # what forecasts is float64, as ever, and outside the stack nothing was bfloat16
    assert {value.dtype for value in mixed.network_.state_dict().values()} == {torch.float64}
    assert mixed.network_.encoder.precision is None


def test_bf16_without_the_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(DataError, match="precision='bf16' needs a CPU with AVX512-BF16 or AMX"):
        fit(precision="bf16", device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bf16_and_members_on_a_gpu():
    gpu = fit(device="cuda", precision="bf16", n_members=2)
    cpu = fit(device="cpu", n_members=2)
    np.testing.assert_allclose(gpu.forecast(FUTURE), cpu.forecast(FUTURE), rtol=2e-2)
    loaded = pickle.loads(pickle.dumps(gpu))  # noqa: S301
    assert all(next(n.parameters()).device.type == "cpu" for n in loaded.networks_)
