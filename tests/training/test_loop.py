"""The training loop against the same loop written out with torch's own optimisers."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.exceptions import DivergedError
from rnnforecast.training import (
    OPTIMIZERS,
    SCHEDULES,
    BestWeights,
    Callback,
    ProgressBar,
    Settings,
    train,
)

TORCH = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
SETTINGS = Settings(
    max_epochs=3,
    lr=0.05,
    optimizer="adam",
    weight_decay=0.0,
    gradient_clip=1.0,
    lr_schedule="cosine",
)


class Rows:
    """Batches of rows in an order drawn each epoch."""

    def __init__(self, n=40, batch_size=8, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 3, generator=rng)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(n, generator=rng)
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def epoch(self, generator):
        for rows in torch.randperm(len(self.x), generator=generator).split(self.batch_size):
            yield self.x[rows], self.y[rows]


def network_of(seed=0):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.5, 0.5, generator=rng)
    return network


def squared(network, batch):
    x, y = batch
    return (network(x)[:, 0] - y).square().mean()


def run(settings=SETTINGS, network=None, **options):
    network = network_of() if network is None else network
    rows = options.pop("batches", None) or Rows()
    generator = torch.Generator().manual_seed(7)
    history = train(network, rows, squared, settings, generator, **options)
    return network, history


def literal_factor(name, progress):
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1 - progress
    if name == "step":
        return 0.1 ** int(3 * progress)
    if progress < 0.05:
        return 0.1 + 0.9 * progress / 0.05
    return (1 + math.cos(math.pi * (progress - 0.05) / 0.95)) / 2


def literal_loop(settings):
    network, rows = network_of(), Rows()
    options = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options["momentum"] = 0.9
    optimizer = TORCH[settings.optimizer](network.parameters(), **options)
    generator = torch.Generator().manual_seed(7)
    losses, norms, rates, total, seen = [], [], [], settings.max_epochs * len(rows), 0
    for _ in range(settings.max_epochs):
        epoch_losses, epoch_norms = [], []
        for batch in rows.epoch(generator):
            rate = settings.lr * literal_factor(settings.lr_schedule, seen / total)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = squared(network, batch)
            loss.backward()
            norm = torch.stack([p.grad.square().sum() for p in network.parameters()]).sum().sqrt()
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()
            epoch_losses.append(loss.item())
            epoch_norms.append(norm.item())
            seen += 1
        losses.append(np.mean(epoch_losses))
        norms.append(np.mean(epoch_norms))
        rates.append(rate)
    return network, losses, norms, rates


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "rmsprop", "lr_schedule": "linear"},
        {"optimizer": "sgd", "lr": 0.01, "lr_schedule": "step"},
        {"gradient_clip": None, "lr_schedule": "constant", "weight_decay": 0.1},
        {"gradient_clip": 0.01},
        {"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.2},
        {"optimizer": "rmsprop", "weight_decay": 0.2},
    ],
)
def test_the_loop_is_the_loop_written_out(change):
    settings = Settings(**{**vars(SETTINGS), **change})
    network, history = run(settings)
    expected, losses, norms, rates = literal_loop(settings)
    for ours, theirs in zip(network.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(history.train_loss, losses, rtol=1e-5)
    np.testing.assert_allclose(history.grad_norm, norms, rtol=1e-5)  # before clipping
    np.testing.assert_allclose(history.lr, rates, rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    grid = np.linspace(0, 1, 200, endpoint=False)
    expected = [literal_factor(name, p) for p in grid]
    np.testing.assert_allclose([SCHEDULES[name](p) for p in grid], expected, rtol=1e-12)


def test_clipping_bounds_every_step():
    clip, norms = 0.25, []

    class Watch(Callback):
        def on_batch(self, step):
            grads = [p.grad.square().sum() for p in network.parameters()]
            norms.append(torch.stack(grads).sum().sqrt().item())

    network = network_of()
    _, history = run(
        Settings(**{**vars(SETTINGS), "gradient_clip": clip}), network, callbacks=[Watch()]
    )
    assert max(history.grad_norm) > clip
    np.testing.assert_allclose(norms, clip, rtol=1e-4)


def test_weight_decay_of_adam_is_an_l2_penalty():
    decayed, _ = run(Settings(**{**vars(SETTINGS), "weight_decay": 0.3, "gradient_clip": None}))

    def penalised(network, batch):
        return squared(network, batch) + 0.15 * sum(p.square().sum() for p in network.parameters())

    other = network_of()
    settings = Settings(**{**vars(SETTINGS), "gradient_clip": None})
    train(other, Rows(), penalised, settings, torch.Generator().manual_seed(7))
    for ours, theirs in zip(decayed.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_early_stopping_restores_the_weights_of_the_best_epoch():
    curve = [5.0, 3.0, 4.0, 2.0, 2.5, 2.0, 9.0, 1.0]
    kept = []

    class Keep(Callback):
        def on_epoch(self, network, history):
            kept.append(copy.deepcopy(network.state_dict()))

    values = iter([6.0, *curve])  # the first is that of the weights before training
    network, history = run(
        Settings(**{**vars(SETTINGS), "max_epochs": 8}),
        validate=lambda network: next(values),
        callbacks=[Keep(), BestWeights(patience=3)],
    )
    # the fourth is the best (a tie is no improvement); three epochs later it stops
    assert history.val_loss == curve[:7]
    assert history.best_epoch == 4
    assert "no better validation loss for 3 epochs" in history.stop_reason
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept[3][name])
    assert not torch.equal(network.state_dict()["0.weight"], kept[6]["0.weight"])


def test_the_weights_before_training_are_kept_where_no_epoch_is_better():
    values = iter([1.0, 2.0, 1.0, 3.0])
    first = network_of().state_dict()
    network, history = run(validate=lambda _: next(values), callbacks=[BestWeights(99)])
    assert history.best_epoch == 0 and len(history) == 3
    for name, value in network.state_dict().items():
        assert torch.equal(value, first[name])


def test_without_patience_training_goes_on_and_keeps_the_best():
    values = iter([6.0, 5.0, 1.0, 2.0, 3.0, 4.0])
    _, history = run(
        Settings(**{**vars(SETTINGS), "max_epochs": 5}),
        validate=lambda network: next(values),
        callbacks=[BestWeights(99)],
    )
    assert len(history) == 5
    assert history.best_epoch == 2
    assert history.stop_reason == "max_epochs=5 reached"


def test_validation_sees_the_network_in_evaluation_mode_and_without_gradients():
    modes = []

    def validate(network):
        modes.append((network.training, torch.is_grad_enabled()))
        return 1.0

    network, history = run(validate=validate)
    assert modes == [(False, False)] * 4  # before training, and after each epoch
    assert not network.training
    assert history.val_loss == [1.0] * 3


def test_history_as_a_frame():
    _, history = run()
    frame = history.frame()
    assert list(frame.index) == [1, 2, 3]
    np.testing.assert_array_equal(frame["train_loss"], history.train_loss)
    assert frame["val_loss"].isna().all()
    assert (np.diff(frame["seconds"]) >= 0).all()
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]


def test_divergence_is_an_error_that_says_what_to_do():
    class Broken(Rows):
        def epoch(self, generator):
            for x, y in super().epoch(generator):
                yield x, y * torch.nan

    with pytest.raises(DivergedError, match=r"training loss is nan in epoch 1: use a smaller lr"):
        run(batches=Broken())


def test_a_finite_loss_with_an_endless_gradient_is_divergence_too():
    """The root's derivative at zero: the loss is 0, the weights after the step are NaN."""

    def rooted(network, batch):
        return (network(batch[0]) * 0).abs().sum().sqrt()

    network = network_of()
    with pytest.raises(DivergedError, match=r"gradient norm is (nan|inf)"):
        one = Settings(**{**vars(SETTINGS), "max_epochs": 1})
        train(network, Rows(batch_size=40), rooted, one, torch.Generator())


def test_a_validation_loss_that_is_not_finite_is_divergence_too():
    with pytest.raises(DivergedError, match="validation loss is inf"):
        run(validate=lambda network: math.inf)


def test_watchers_end_also_after_an_interrupt():
    ended = []

    class Watch(Callback):
        def on_batch(self, step):
            if step == 2:
                raise KeyboardInterrupt

        def on_end(self, network, history):
            ended.append(len(history))

    network = network_of()
    with pytest.raises(KeyboardInterrupt):
        run(network=network, callbacks=[Watch()])
    assert ended == [0]
    assert not network.training


def test_the_progress_bar_counts_steps(capsys):
    bar = ProgressBar("Someone", 15)
    _, history = run(callbacks=[bar])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Someone" in shown.err
    assert "15/15" in shown.err
    assert f"train={history.train_loss[-1]:.4f}" in shown.err


def test_nothing_global_is_touched():
    network = network_of()  # torch's own initialisation draws from the global generator
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    run(network=network)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def float64_paths(name, weight_decay):
    """Twenty steps on a curved surface, by torch and by ours."""
    ends = []
    for ours in (True, False):
        w = torch.linspace(-2, 3, 7, dtype=torch.float64).requires_grad_()
        if ours:
            optimizer = OPTIMIZERS[name]([w], weight_decay)
        else:
            momentum = {"momentum": 0.9} if name == "sgd" else {}
            optimizer = TORCH[name]([w], lr=1.0, weight_decay=weight_decay, **momentum)
        for k in range(20):
            optimizer.zero_grad()
            ((w - 1) ** 4 + torch.sin(3 * w)).sum().backward()
            if ours:
                optimizer.step(0.01 / (1 + k))
            else:
                optimizer.param_groups[0]["lr"] = 0.01 / (1 + k)
                optimizer.step()
        ends.append(w.detach())
    return ends


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_torchs(name, weight_decay):
    ours, theirs = float64_paths(name, weight_decay)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_fit_does_not_import_torchs_compiler():
    code = (
        "import sys, numpy as np; from rnnforecast import DeepGRUForecaster as F; "
        "F(max_epochs=1, hidden_size=4).fit(np.arange(40.0)[:, None]).predict(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- moving average of the weights -----------------------------------------------------------------


def literal_average(decay, epochs):
    """Weights after each step of plain training, and their average after each epoch."""
    weights, average = [], None

    class Watch(Callback):
        def on_batch(self, step):
            weights.append([p.detach().clone() for p in network.parameters()])

    network = network_of()
    average = [p.detach().clone() for p in network.parameters()]
    run(dataclasses.replace(SETTINGS, max_epochs=epochs), network, callbacks=[Watch()])
    ends, n = [], len(Rows())
    for step, now in enumerate(weights, start=1):
        share = min(decay, (1 + step) / (10 + step))
        average = [share * a + (1 - share) * w for a, w in zip(average, now)]
        if step % n == 0:
            ends.append(average)
    return ends


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_what_is_validated_and_kept_is_the_average(decay):
    seen = []

    def validate(network):
        seen.append([p.detach().clone() for p in network.parameters()])
        return 1.0

    network, _ = run(dataclasses.replace(SETTINGS, ema_decay=decay), validate=validate)
    expected = literal_average(decay, SETTINGS.max_epochs)
    assert len(seen) == 1 + SETTINGS.max_epochs
    for found, averages in zip([*seen[1:], list(network.parameters())], [*expected, expected[-1]]):
        for a, b in zip(found, averages):
            torch.testing.assert_close(a.detach(), b, rtol=1e-5, atol=1e-6)


def test_the_best_average_is_kept():
    values = iter([4.0, 2.0, 1.0, 3.0])
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9)
    network, history = run(settings, validate=lambda _: next(values), callbacks=[BestWeights(99)])
    assert history.best_epoch == 2
    for a, b in zip(network.parameters(), literal_average(0.9, 3)[1]):
        torch.testing.assert_close(a.detach(), b, rtol=1e-5, atol=1e-6)


def test_averaging_does_not_change_the_course_of_training():
    _, plain = run()
    _, averaged = run(dataclasses.replace(SETTINGS, ema_decay=0.9))
    assert plain.train_loss == averaged.train_loss
