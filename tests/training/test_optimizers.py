"""One buffer for all parameters: the numbers of torch's optimisers, and no trace afterwards."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from rnnforecast.training import OPTIMIZERS, optimizers

TORCH = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def parameters_of(seed=0):
    """Odd shapes, one of them a scalar, so that views need padding."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (7,), (), (2, 1, 3)]
    return [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]


def losses(parameters, steps, missing=None):
    """A loss for each step; parameter 1 takes no part in the steps named ``missing``."""
    for k in range(steps):
        used = [p for i, p in enumerate(parameters) if not (missing and k in missing and i == 1)]
        yield sum(((p - 0.3 * k) ** 4).sum() + torch.sin(3 * p).sum() for p in used)


def torch_path(name, decay, limit, missing):
    parameters = parameters_of()
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = TORCH[name](parameters, lr=0.01, weight_decay=decay, **momentum)
    norms = []
    for k, loss in enumerate(losses(parameters, 12, missing)):
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(parameters, limit))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + k)
        optimizer.step()
    return parameters, norms


def our_path(name, decay, limit, missing):
    parameters = parameters_of()
    optimizer = OPTIMIZERS[name](parameters, decay)
    norms = []
    for k, loss in enumerate(losses(parameters, 12, missing)):
        optimizer.zero_grad()
        loss.backward()
        norms.append(optimizer.step(0.01 / (1 + k), limit))
    optimizer.release()
    return parameters, norms


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("limit", [1.5, float("inf")])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_and_norms_are_torchs(name, decay, limit, flat, monkeypatch):
    if not flat:
        monkeypatch.setattr(optimizers, "can_flatten", lambda parameters: False)
    ours, norms = our_path(name, decay, limit, None)
    theirs, expected = torch_path(name, decay, limit, None)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.stack(norms), torch.stack(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_a_gradient_stays_as_it_is(name):
    """In that step: neither decay nor momentum moves it, as in torch."""
    ours, _ = our_path(name, 0.2, math.inf, {3, 7})
    theirs, _ = torch_path(name, 0.2, math.inf, {3, 7})
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    idle = parameters_of()
    optimizer = OPTIMIZERS[name](idle, 0.2)
    before = idle[1].detach().clone()
    next(losses(idle, 1, {0})).backward()
    optimizer.step(0.1)
    assert torch.equal(idle[1], before)
    assert not torch.equal(idle[0], parameters_of()[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_device_without_torchs_fused_kernels_the_numbers_stay(name, monkeypatch):
    expected, _ = our_path(name, 0.1, 1.0, None)
    monkeypatch.setattr(optimizers, "_FUSED", ())
    ours, _ = our_path(name, 0.1, 1.0, None)
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_own_their_memory_again(name):
    network = nn.Sequential(nn.GRU(4, 16, batch_first=True), nn.Linear(16, 1)).double()
    size = len(pickle.dumps(network))
    optimizer = OPTIMIZERS[name](list(network.parameters()))
    shared = {p.untyped_storage().data_ptr() for p in network.parameters()}
    assert len(shared) == 1  # flat while it trains
    out, _ = network[0](torch.ones(2, 5, 4, dtype=torch.float64))
    network[1](out).sum().backward()
    optimizer.step(0.1)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer.release()
    for key, value in network.state_dict().items():
        assert torch.equal(value, weights[key])
        assert value.untyped_storage().nbytes() == value.nbytes
    assert all(p.grad is None for p in network.parameters())
    assert abs(len(pickle.dumps(network)) - size) < 200
    twin = copy.deepcopy(network)
    with torch.no_grad():
        network[1].bias += 1
    assert torch.equal(twin[1].bias, weights["1.bias"])


def test_frozen_and_shared_parameters():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight.requires_grad_(False)
    network[2].weight = network[0].weight  # one parameter in two places
    frozen = network[1].weight.clone()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS["adam"](trained)
    network(torch.ones(2, 3)).square().sum().backward()
    optimizer.step(0.1)
    optimizer.release()
    assert network[2].weight is network[0].weight
    assert torch.equal(network[1].weight, frozen)


def test_parameters_that_share_memory_are_left_where_they_are():
    memory = torch.ones(6)
    parameters = [memory[:4].requires_grad_(), memory[4:].requires_grad_()]
    optimizer = OPTIMIZERS["sgd"](parameters)
    sum(p.sum() for p in parameters).backward()
    optimizer.step(0.5)
    optimizer.release()
    torch.testing.assert_close(memory, torch.full((6,), 0.5))


def test_nothing_to_train():
    optimizer = OPTIMIZERS["adam"]([])
    assert optimizer.step(0.1) == 0
    optimizer.release()


@pytest.mark.parametrize("missing", [None, {3, 7}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_limits_and_penalties_are_those_of_torch(name, missing):
    """Values clipped, then the norm; L1 by its gradient; rows of weights scaled down."""
    theirs, ours = parameters_of(), parameters_of()
    momentum = {"momentum": 0.5} if name == "sgd" else {}
    optimizer = TORCH[name](theirs, lr=0.02, weight_decay=0.1, **momentum)
    mine = OPTIMIZERS[name](ours, 0.1, l1=0.05, momentum=0.5, clip_value=0.7, max_norm=1.2)
    pairs = zip(losses(theirs, 12, missing), losses(ours, 12, missing), strict=True)
    for there, here in pairs:
        optimizer.zero_grad()
        there.backward()
        nn.utils.clip_grad_value_(theirs, 0.7)
        expected = nn.utils.clip_grad_norm_(theirs, 1.5)
        for p in theirs:
            if p.grad is not None:
                p.grad += 0.05 * p.detach().sign()
        optimizer.step()
        with torch.no_grad():
            theirs[0].copy_(torch.renorm(theirs[0], 2, 0, 1.2))
        mine.zero_grad()
        here.backward()
        torch.testing.assert_close(mine.step(0.02, 1.5), expected, rtol=1e-6, atol=0)
    mine.release()
    assert ours[0].norm(dim=1).max() <= 1.2 + 1e-9
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
