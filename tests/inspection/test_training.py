"""Training curves and the flow of gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rnnforecast import (
    ESRNNForecaster,
    NaiveForecaster,
    SegmentRNNForecaster,
    SequenceRegressor,
)
from rnnforecast.exceptions import DataError
from rnnforecast.inspection import GradientFlowDisplay, TrainingCurveDisplay
from rnnforecast.inspection.networks import Windows
from rnnforecast.nn import CELLS


def test_curves_are_those_of_the_histories(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted)
    assert display.best_epochs.tolist() == [h.best_epoch for h in fitted.histories_]
    for member, history in enumerate(fitted.histories_):
        assert display.curves.loc[member, "train_loss"].tolist() == history.train_loss
        assert display.curves.loc[member, "val_loss"].tolist() == history.val_loss


def test_curves_of_every_trained_estimator(single):
    few = {"max_epochs": 2, "n_batches": 2, "n_members": 1, "random_state": 0}
    model = ESRNNForecaster(horizon=2, **few).fit(single)
    assert len(TrainingCurveDisplay.from_estimator(model).curves) == 2
    with pytest.raises(DataError, match="TrainingCurveDisplay takes .* Got NaiveForecaster"):
        TrainingCurveDisplay.from_estimator(NaiveForecaster().fit(single))


@pytest.mark.parametrize("attention", [None, "dot"])
@pytest.mark.parametrize("lag", [0, 1, 7, 23])
def test_gradient_by_finite_differences(fit, attention, lag):
    model = fit(cell="rnn", attention=attention, loss="mse", lookback=24)
    found = GradientFlowDisplay.from_estimator(model, n_windows=1).norms
    windows = Windows("test", model)
    batch, network = windows.spread(1), copy.deepcopy(model.network_)
    layer, t = network.encoder.layers[0], 23 - lag
    scan = layer.scan

    def loss(bump):
        def bumped(x, state=None, lengths=None):
            out, state = scan(x[:, : t + 1], state)
            state = (state[0] + bump,)
            out = torch.cat([out[:, :-1], state[0][:, None]], 1)
            if t == x.shape[1] - 1:
                return out, state
            later, state = scan(x[:, t + 1 :], state)
            return torch.cat([out, later], 1), state

        layer.scan = bumped
        with torch.no_grad():
            return float(windows.loss(network, batch))

    steps = 1e-5 * torch.eye(5, dtype=torch.float64)
    slopes = [(loss(step) - loss(-step)) / 2e-5 for step in steps]
    assert found.loc[lag, "layer 1"] == pytest.approx(np.linalg.norm(slopes), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.3, "vanishing"), (1.0, "healthy"), (1.5, "exploding")]
)
def test_factor_of_a_linear_network_is_its_gain(fit, gain, verdict):
    """Of tiny states tanh is the identity, and an orthogonal matrix times g changes norms by g."""
    model = fit(cell="rnn", orthogonal=True, hidden_size=4)
    for name, weight in model.network_.encoder.layers[0].named_parameters():
        turned = (
            gain * torch.linalg.qr(weight.data)[0] if name == "weight_hh" else 1e-9 * weight.data
        )
        weight.data.copy_(turned)
    display = GradientFlowDisplay.from_estimator(model)
    assert display.summary.loc["layer 1", "factor"] == pytest.approx(gain, rel=1e-6)
    assert display.summary.loc["layer 1", "verdict"] == verdict
    assert f"layer 1: {verdict}" in display.verdict_
    ratios = display.norms["layer 1"].to_numpy()
    np.testing.assert_allclose(ratios[1:] / ratios[:-1], gain, rtol=1e-6)


def test_verdicts_of_trained_networks(fit):
    plain = GradientFlowDisplay.from_estimator(fit(cell="rnn", n_layers=2))
    assert set(plain.summary["verdict"]) == {"vanishing"}
    assert "cell='lstm'" in plain.verdict_ and "orthogonal=True" in plain.verdict_
    gated = GradientFlowDisplay.from_estimator(fit(cell="lstm", forget_bias=3.0))
    assert set(gated.summary["verdict"]) == {"healthy"}
    assert "Against" not in gated.verdict_
    lstm = GradientFlowDisplay.from_estimator(fit(cell="lstm", lookback=70))
    assert "forget_bias=4.2" in lstm.verdict_ and "cell='gru'" not in lstm.verdict_


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_and_depth(fit, cell):
    options = {"bidirectional": True, "dilations": ((1, 2),), "zoneout": 0.1}
    display = GradientFlowDisplay.from_estimator(fit(cell=cell, **options), n_windows=4)
    names = [f"layer {k} {way}" for k in (1, 2) for way in ("forward", "backward")]
    assert display.norms.columns.tolist() == names
    assert (display.norms.iloc[1:-1] > 0).all(axis=None)
    assert np.isfinite(display.summary["gradient"]).all()


def test_weights_are_those_of_autograd(one):
    display = GradientFlowDisplay.from_estimator(one, n_windows=8)
    windows = Windows("test", one)
    network = copy.deepcopy(one.network_).requires_grad_(True)
    windows.loss(network, windows.spread(8)).backward()
    layer = network.encoder.layers[0]
    squares = [float(p.grad.square().sum()) for p in layer.parameters()]
    assert display.summary.loc["layer 1", "gradient"] == pytest.approx(np.sqrt(sum(squares)))


def test_panels_segments_and_other_rows(panel, fitted, single, quick):
    assert GradientFlowDisplay.from_estimator(fitted, series="B").norms.shape == (24, 2)
    other = GradientFlowDisplay.from_estimator(fitted, panel.loc[["B"]]).norms
    assert not np.allclose(other, GradientFlowDisplay.from_estimator(fitted, series="A").norms)
    folded = SegmentRNNForecaster(horizon=6, **{**quick, "segment": 6}).fit(single)
    assert GradientFlowDisplay.from_estimator(folded).norms.index.tolist() == [0, 6, 12, 18]


def test_what_cannot_be_looked_at(single, fitted):
    with pytest.raises(DataError, match="GradientFlowDisplay takes .* Got NaiveForecaster"):
        GradientFlowDisplay.from_estimator(NaiveForecaster().fit(single))
    with pytest.raises(DataError, match="GradientFlowDisplay takes .* Got SequenceRegressor"):
        GradientFlowDisplay.from_estimator(SequenceRegressor().fit([[0.0]] * 9, [0] * 9))
    with pytest.raises(DataError, match="series must be one of .*'A', 'B', 'C'.* Got 'D'"):
        GradientFlowDisplay.from_estimator(fitted, series="D")
    with pytest.raises(DataError, match=r"member must be one of \[0, 1\]. Got 2"):
        GradientFlowDisplay.from_estimator(fitted, member=2)
