"""Hidden states, gates and attention."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from rnnforecast import SeriesScaler
from rnnforecast.exceptions import DataError
from rnnforecast.inspection import AttentionDisplay, GateDisplay, HiddenStateDisplay
from rnnforecast.inspection.networks import Windows
from rnnforecast.nn import Cell


def encoded(model, series=0):
    """Outputs of the encoder for the newest window of a series, by the network's own pass."""
    panel, network = model.panel_, model.network_
    with torch.inference_mode():
        inputs = model._inputs(network, panel, np.array([series]), panel.lengths[[series]])
        window = network.normalise(network.take_effect(inputs))
        return network.encode(window.values, window.observed, inputs.past)[0].numpy()


# -- hidden states ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm"},
        {"cell": "lru"},
        {"cell": "gru", "bidirectional": True, "n_layers": 2},
        {"cell": "rnn", "dilations": ((1, 2),)},
        {"cell": "lstm", "segment": 5},
    ],
)
def test_states_are_those_of_the_fast_pass(fit, single, options):
    model = fit(**options)
    display = HiddenStateDisplay.from_estimator(model)
    np.testing.assert_allclose(display.states, encoded(model)[0], atol=1e-9)
    step = model.segment_
    assert display.states.index.equals(
        single.index[-len(display.states) * step :][step - 1 :: step]
    )


def test_components_and_autocorrelation(one):
    display = HiddenStateDisplay.from_estimator(one)
    states = display.states.to_numpy()
    pca = PCA(2).fit(states)
    np.testing.assert_allclose(display.explained, pca.explained_variance_ratio_)
    np.testing.assert_allclose(abs(display.components), abs(pca.transform(states)), atol=1e-9)
    centred = states - states.mean(0)
    lag3 = (centred[3:] * centred[:-3]).sum(0) / (centred**2).sum(0)
    np.testing.assert_allclose(display.autocorrelation.loc[3], lag3)


def test_states_of_one_series_and_target(fitted):
    whole = HiddenStateDisplay.from_estimator(fitted, series="B", target="wind").states
    np.testing.assert_allclose(whole, encoded(fitted, 1)[1], atol=1e-9)
    # rows before the first one of a series are not shown
    short = HiddenStateDisplay.from_estimator(fitted, series="C").states
    assert short.index[0] == pd.Timestamp("2024-03-01") and len(short) == 18
    np.testing.assert_allclose(short, encoded(fitted, 2)[0, -18:], atol=1e-9)
    lower = HiddenStateDisplay.from_estimator(fitted, layer=0)
    assert not np.allclose(lower.states, HiddenStateDisplay.from_estimator(fitted).states)
    with pytest.raises(DataError, match=r"layer must be one of \[-2, -1, 0, 1\]. Got 2"):
        HiddenStateDisplay.from_estimator(fitted, layer=2)


def test_states_of_other_rows_through_a_pipeline(single, one):
    pipeline = make_pipeline(SeriesScaler(), clone(one)).set_output(transform="pandas")
    pipeline.fit(single[:130])
    inner, scaled = pipeline[-1], pipeline[:-1].transform(single)
    found = HiddenStateDisplay.from_estimator(pipeline, single).states
    np.testing.assert_allclose(found, encoded(inner._on(scaled))[0], atol=1e-9)
    assert found.index[-1] == single.index[-1]


# -- gates -----------------------------------------------------------------------------------------


def test_gates_by_their_names(fit):
    """Blind gates are the sigmoid of their bias."""
    model = fit(cell="lstm")
    cell = model.network_.encoder.layers[0]
    for name, weight in cell.named_parameters():
        weight.data.zero_()
        if name == "bias_ih":  # input, forget, cell, output
            weight.data.copy_(torch.tensor([-3.0, 3.0, 0.5, 0.0]).repeat_interleave(5))
    gates = GateDisplay.from_estimator(model).gates.loc["layer 1"]
    sigmoid = 1 / (1 + np.exp(-np.array([3.0, -3.0, 0.0])))
    np.testing.assert_allclose(gates.loc[["forget", "input", "output"], "mean"], sigmoid)
    assert gates["open"].tolist() == [1, 0, 0] and gates["shut"].tolist() == [0, 1, 0]


def test_gates_against_numpy(fit):
    model = fit(cell="gru")
    cell, n = model.network_.encoder.layers[0], 40
    found = GateDisplay.from_estimator(model, n_windows=n).gates.loc["layer 1"]
    inputs = Windows("test", model).spread(n).inputs
    with torch.no_grad():
        window = model.network_.normalise(inputs.targets)
        x = model.network_.features(window.values, window.observed, inputs.past).numpy()
    w, u, b, c = (
        p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    )
    h, updates, resets = np.zeros((n, 5)), [], []
    for t in range(x.shape[1]):
        r, z = np.split(1 / (1 + np.exp(-(x[:, t] @ w.T + h @ u.T + b + c)[:, :10])), 2, 1)
        new = np.tanh((x[:, t] @ w.T + b)[:, 10:] + r * (h @ u.T + c)[:, 10:])
        h = z * h + (1 - z) * new
        updates.append(z)
        resets.append(r)
    for name, values in (("update", np.array(updates)), ("reset", np.array(resets))):
        assert found.loc[name, "mean"] == pytest.approx(values.mean())
        assert found.loc[name, "open"] == pytest.approx((values > 0.9).mean())
        assert found.loc[name, "shut"] == pytest.approx((values < 0.1).mean())


class Leaky(Cell):
    """A cell of somebody else, with a gate of each kind of call."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = torch.nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, x, state):
        both = self.read(torch.cat([x, state[0]], -1))
        h = both.sigmoid() * state[0] + torch.nn.functional.sigmoid(-both) * torch.tanh(both)
        return h, (h,)


def test_gates_of_other_cells(fit):
    names = [("layer 1", "gate 1"), ("layer 1", "gate 2")]
    gates = GateDisplay.from_estimator(fit(cell=Leaky)).gates
    assert gates.index.tolist() == names
    assert gates["mean"].sum() == pytest.approx(1)  # s(x) + s(-x)
    two = GateDisplay.from_estimator(fit(cell="mingru", n_layers=2, bidirectional=True)).gates
    assert two.index.get_level_values(0).tolist() == [
        f"layer {k} {way}" for k in (1, 2) for way in ("forward", "backward")
    ]
    zoned = GateDisplay.from_estimator(fit(cell="gru_cho", zoneout=0.1, dilations=((2,),))).gates
    assert zoned.index.get_level_values(1).tolist() == ["update", "reset"]
    with pytest.raises(DataError, match="GateDisplay: the cell 'rnn' has no gate"):
        GateDisplay.from_estimator(fit(cell="rnn"))


# -- attention -------------------------------------------------------------------------------------


def test_attention_is_that_of_the_forecaster(fitted):
    table = fitted.attention_weights()
    for series, target in (("B", "wind"), ("C", "load")):
        weights = AttentionDisplay.from_estimator(fitted, series=series, target=target).weights
        own = table.loc[series][target].to_numpy()
        np.testing.assert_array_equal(weights, own[:, -weights.shape[1] :])
        assert weights.columns[-1] + pd.Timedelta("1h") == weights.index[0]
    assert AttentionDisplay.from_estimator(fitted, series="C").weights.shape == (4, 18)


def test_no_attention(one):
    with pytest.raises(DataError, match="fit with attention='dot'. Got DeepRNNForecaster without"):
        AttentionDisplay.from_estimator(one)
