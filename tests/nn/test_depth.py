"""How layers are joined, and how steps ahead are decoded: against literal transcriptions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rnnforecast.exceptions import DataError
from rnnforecast.nn import (
    CELLS,
    Depth,
    ForecastNetwork,
    Inputs,
    NetworkSpec,
    RecurrentStack,
    as_dilations,
    initialise,
    set_generator,
)
from rnnforecast.outputs import PointOutput

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def stack_of(*args, seed=0, **options):
    made = RecurrentStack(*args, **options).double()
    initialise(made, torch.Generator().manual_seed(seed))
    return made.eval()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("both", [False, True])
def test_every_layer_reads_the_input(both):
    stack = stack_of("gru", 3, 4, 3, both, depth=Depth(input_to_all=True))
    x = draw(2, 7, 3)
    h = x
    for depth, layer in enumerate(stack.layers):
        h = layer.scan(torch.cat([h, x], -1) if depth else x)[0]
    torch.testing.assert_close(stack(x)[0], h, **TIGHT)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 3])])
def test_a_linear_read_out_of_all_layers_is_the_sum_of_theirs(both, lengths):
    """Graves 2013, section 2: y_t = b + sum over l of W_l h_t^l."""
    stack = stack_of("lstm", 3, 4, 3, both, depth=Depth(output_from_all=True))
    head = nn.Linear(stack.output_size, 2).double()
    x, size = draw(2, 7, 3), 8 if both else 4
    outputs, last = stack(x, lengths)
    h, total, ends = x, head.bias, head.bias
    for k, layer in enumerate(stack.layers):
        weight = head.weight[:, k * size : (k + 1) * size]
        h = layer.scan(h, None, lengths)[0]
        total = total + h @ weight.T
        stop = torch.tensor([7, 7]) if lengths is None else lengths
        end = h[torch.arange(2), stop - 1]
        if both:  # the second direction ends at the first step
            end = torch.cat([end[:, :4], h[:, 0, 4:]], -1)
        ends = ends + end @ weight.T
    torch.testing.assert_close(head(outputs), total, **TIGHT)
    torch.testing.assert_close(head(last), ends, **TIGHT)


def test_outputs_of_each_layer_are_normalised_and_zero_after_a_rows_end():
    stack = stack_of("rnn", 3, 6, 2, depth=Depth(layer_norm=True))
    for norm in stack.norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, lengths = draw(2, 5, 3), torch.tensor([5, 2])
    h = x
    for layer, norm in zip(stack.layers, stack.norms, strict=True):
        h = layer.scan(h)[0]
        centred = h - h.mean(-1, keepdim=True)
        h = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        h = h * norm.weight + norm.bias
    torch.testing.assert_close(stack(x)[0], h, **TIGHT)
    outputs, last = stack(x, lengths)
    torch.testing.assert_close(outputs[1, :2], h[1, :2], **TIGHT)
    assert not outputs[1, 2:].any()
    torch.testing.assert_close(last[1], h[1, 1], **TIGHT)


def test_zoneout_keeps_old_numbers_in_training_and_averages_in_forecasts():
    stack = stack_of("lstm", 3, 50, depth=Depth(zoneout=0.3))
    plain = stack_of("lstm", 3, 50)
    plain.load_state_dict({k.replace("cell.", ""): v for k, v in stack.state_dict().items()})
    x, state = draw(40, 1, 3), (draw(40, 50, seed=2), draw(40, 50, seed=3))
    new = plain.layers[0].step(x[:, 0], state)[1]
    mixed = stack.scan(x, [state])[1][0]
    for old, now, got in zip(state, new, mixed, strict=True):  # eq. 2 and 3 of Krueger et al.
        torch.testing.assert_close(got, 0.3 * old + 0.7 * now, **TIGHT)
    stack.train()
    set_generator(stack, torch.Generator().manual_seed(5))
    drawn = stack.scan(x, [state])[1][0]
    for old, now, got in zip(state, new, drawn, strict=True):
        kept = got == old
        torch.testing.assert_close(got[~kept], now[~kept], **TIGHT)
        assert 0.25 < kept.double().mean() < 0.35


def test_variational_dropout_drops_the_same_units_in_all_steps():
    stack = stack_of("gru", 3, 40, dropout=0.5, depth=Depth(variational=True)).train()
    set_generator(stack, torch.Generator().manual_seed(0))
    dropped = stack(draw(6, 9, 3))[0] == 0
    assert (dropped == dropped[:, :1]).all()
    assert 0.4 < dropped[:, 0].double().mean() < 0.6


@pytest.mark.parametrize("cell", [name for name, kind in CELLS.items() if kind.recurrent_weights])
def test_recurrent_blocks_start_orthogonal(cell):
    stack = stack_of(cell, 3, 8, depth=Depth(orthogonal=True))
    (layer,) = stack.layers
    for name in layer.recurrent_weights:
        weight = layer.get_parameter(name)
        for block in weight.reshape(-1, weight.shape[-1], weight.shape[-1]):
            torch.testing.assert_close(block @ block.T, torch.eye(len(block)).double(), **TIGHT)
    other = stack_of(cell, 3, 8, seed=1, depth=Depth(orthogonal=True))
    assert not torch.equal(other.layers[0].get_parameter(name), weight)


@pytest.mark.parametrize("cell", [name for name, kind in CELLS.items() if kind.forget_gate])
def test_forget_gates_start_where_asked(cell):
    """With a bias of 80 for the forget gate, what the cell holds stays."""
    stack = stack_of(cell, 3, 8, depth=Depth(forget_bias=80.0))
    name, part, of = stack.layers[0].forget_gate
    bias = stack.layers[0].get_parameter(name).chunk(of)
    assert (bias[part] == 80).all()
    assert all((bias[k].abs() < 10).all() for k in range(of) if k != part)
    if cell == "lstm":
        c = draw(2, 8)
        state = stack.layers[0].step(torch.zeros(2, 3).double(), (0 * c, c))[1]
        fresh = stack.layers[0].step(torch.zeros(2, 3).double(), (0 * c, 0 * c))[1]
        torch.testing.assert_close(state[1] - fresh[1], c, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["tanh", "relu", "leaky_relu", "sigmoid"])
def test_activations_of_the_vanilla_cell(name):
    stack = stack_of("rnn", 3, 5, depth=Depth(activation=name))
    numpy = {
        "tanh": np.tanh,
        "relu": lambda v: np.maximum(v, 0),
        "leaky_relu": lambda v: np.where(v > 0, v, 0.01 * v),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    }[name]
    w, u, b, c = (p.detach().numpy() for p in stack.layers[0].parameters())
    x, h = draw(2, 6, 3), np.zeros((2, 5))
    for t in range(6):
        h = numpy(x[:, t].numpy() @ w.T + b + h @ u.T + c)
    np.testing.assert_allclose(stack(x)[1].detach(), h, rtol=1e-10)


def test_what_cannot_be_joined_is_said():
    with pytest.raises(DataError, match="no choice of activation"):
        RecurrentStack("lstm", 3, 4, depth=Depth(activation="relu"))
    with pytest.raises(DataError, match="activation must be one of"):
        RecurrentStack("rnn", 3, 4, depth=Depth(activation="softplus"))
    for wrong in (3, (), ((),), ((1, 0),), ((1, 2.5),), "ab"):
        with pytest.raises(DataError, match=r"Who: dilations must be blocks"):
            as_dilations("Who", wrong)


# -- decoders --------------------------------------------------------------------------------------


def network_of(seed=0, **options):
    spec = {
        "n_targets": 2,
        "lookback": 12,
        "horizon": 3,
        "season": 4,
        "n_params": 1,
        "cell": "gru",
        "hidden_size": 6,
        "n_layers": 2,
        "dropout": 0.0,
        "bidirectional": False,
        "residual": False,
        "past": (),
        "known": (),
        "static": (),
    }
    made = ForecastNetwork(NetworkSpec(**{**spec, **options})).double()
    initialise(made, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # nothing is zero at random
        for parameter in made.parameters():
            parameter.add_(0.3 * draw(*parameter.shape, seed=parameter.numel()))
    return made.eval()


def batch_of(n=3, missing=False):
    targets = draw(n, 12, 2, seed=7).cumsum(1)
    if missing:
        targets[0, 3:5] = torch.nan
    empty = torch.empty(n, 12, 0).double()
    return Inputs(targets, empty, empty, torch.empty(n, 3, 0).double(), torch.empty(n, 0).double())


@pytest.mark.parametrize("attention", [None, "dot"])
@pytest.mark.parametrize("cell", ["lstm", "mlstm"])
def test_a_recurrent_decoder_goes_on_from_the_encoder(cell, attention):
    """Step by step: embedding plus query, one step of each layer, attention, read-out."""
    network = network_of(cell=cell, decoder="recurrent", attention=attention)
    inputs = batch_of()
    window = network.normalise(network.take_effect(inputs))
    outputs, last, states = network.encode(window.values, window.observed, inputs.past)
    raw = []
    for h in range(3):
        x = network.position[h] + network.query(last)
        for k, layer in enumerate(network.decoder.layers):
            x, states[k] = layer.step(x, states[k])
        if attention:
            q, keys = network.attention.query(x), network.attention.key(outputs)
            share = torch.softmax(torch.einsum("bi,bti->bt", q, keys) / 6**0.5, -1)
            x = torch.cat([x, torch.einsum("bt,bti->bi", share, outputs)], -1)
        raw.append(network.step_head(x))
    expected = torch.stack(raw, 1)[..., None]
    got, _ = network.decode(window, network.context(window, inputs))
    torch.testing.assert_close(got, expected, **TIGHT)


@pytest.mark.parametrize("kind", ["additive", "dot", "multihead"])
def test_attention_adds_to_the_direct_decoder_step_by_step(kind):
    network = network_of(attention=kind, independent=True, segment=2)
    inputs = batch_of(missing=True)
    window = network.normalise(network.take_effect(inputs))
    context = network.context(window, inputs)
    asked = network.position + network.query(context.last)[:, None]
    taken, weights = network.attention(asked, context.outputs)
    steps = network.step_head(torch.cat([asked, taken], -1))
    direct = network.head(context.last).view(6, 3, 1)
    expected = (steps + direct).view(3, 2, 3, 1).transpose(1, 2)  # (batch, steps, targets, 1)
    torch.testing.assert_close(network.decode(window, context)[0], expected, **TIGHT)
    assert weights.shape == (6, 3, 6)
    torch.testing.assert_close(network.weights(inputs), weights, **TIGHT)
    # another question for each step
    assert (weights[:, 0] - weights[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("dilations", [None, ((1, 2), (3,))])
@pytest.mark.parametrize("both", [False, True])
def test_the_decoder_starts_from_the_newest_state_ahead(both, dilations):
    network = network_of(decoder="recurrent", bidirectional=both, dilations=dilations)
    inputs = batch_of()
    window = network.normalise(network.take_effect(inputs))
    context = network.context(window, inputs)
    x = network.encoder
    outputs = context.outputs
    assert len(context.states) == len(network.decoder.layers) == len(x.layers)
    top = context.states[-1][0]
    torch.testing.assert_close(top, outputs[:, -1, :6], **TIGHT)


def test_supervised_layers_forecast_by_themselves_and_their_mean_is_the_forecast():
    depth = Depth(output_from_all=True)
    network = network_of(depth=depth, supervised=True, n_layers=3, independent=True)
    inputs = batch_of()
    said = network.says(inputs)
    assert len(said) == 3
    raw, location, scale = network(inputs)
    torch.testing.assert_close(torch.stack([s[0] for s in said]).mean(0), raw, **TIGHT)
    window = network.normalise(network.take_effect(inputs))
    last = network.context(window, inputs).last
    for k, (own, where, unit) in enumerate(said):
        part = slice(6 * k, 6 * (k + 1))
        expected = functional.linear(last[:, part], network.head.weight[:, part], network.head.bias)
        torch.testing.assert_close(own, expected.view(3, 2, 3, 1).transpose(1, 2), **TIGHT)
        torch.testing.assert_close(where, location, **TIGHT)
        torch.testing.assert_close(unit, scale, **TIGHT)
    # each learns: with the sum alone, one layer would get no gradient of its own error
    loss = PointOutput("mse").loss(PointOutput("mse").forecast(*said[0]), draw(3, 3, 2))
    grad = torch.autograd.grad(loss, network.head.weight)[0]
    assert grad[:, :6].any() and not grad[:, 6:].any()


def test_networks_with_options_can_be_copied():
    network = network_of(
        attention="multihead",
        decoder="recurrent",
        depth=Depth(zoneout=0.1, layer_norm=True, input_to_all=True),
    )
    inputs = batch_of()
    torch.testing.assert_close(copy.deepcopy(network)(inputs), network(inputs), **TIGHT)
