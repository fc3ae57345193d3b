"""The learner on a source that has no windows: sums of sequences, and no forecaster anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.exceptions import DataError, DivergedError
from rnnforecast.nn import RecurrentStack, SeededDropout
from rnnforecast.training import Callback, Learner, Settings

SETTINGS = Settings(max_epochs=6, lr=0.03, gradient_clip=1.0)


class Sums:
    """Padded sequences of some numbers, and their sum."""

    def __init__(self, n=256, batch_size=32, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(1, 7, (n,), generator=rng)
        self.x = torch.rand(n, 6, 1, generator=rng) - 0.5
        here = torch.arange(6) < self.lengths[:, None]
        self.y = (self.x[..., 0] * here).sum(1)
        self.x[~here] = 1e6  # must not be read
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def epoch(self, generator):
        for rows in torch.randperm(len(self.x), generator=generator).split(self.batch_size):
            yield self.x[rows], self.lengths[rows], self.y[rows]


class Reader(nn.Module):
    def __init__(self, hidden=8, p=0.0):
        super().__init__()
        self.stack = RecurrentStack("gru", 1, hidden)
        self.dropout = SeededDropout(p)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x, lengths):
        return self.head(self.dropout(self.stack(x, lengths)[1]))[:, 0]


def squared(network, batch):
    x, lengths, y = batch
    return (network(x, lengths) - y).square().mean()


def held(seed=1, sizes=(64, 16)):
    """Validation batches of different sizes."""
    for k, n in enumerate(sizes):
        rows = Sums(n, n, seed=seed + k)
        yield (rows.x, rows.lengths, rows.y), float(n)


def learner(network=Reader, source=None, **options):
    options = {"settings": SETTINGS, "random_state": 0, **options}
    return Learner(network, Sums() if source is None else source, squared, **options)


def bits(network):
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def test_it_learns_a_task_that_has_no_windows():
    (member,) = learner(settings=Settings(max_epochs=40, lr=0.03)).fit()
    rows = Sums(200, 200, seed=9)
    with torch.no_grad():
        error = (member.network(rows.x, rows.lengths) - rows.y).square().mean()
    assert error < 0.1 * rows.y.var()
    assert len(member.history) == 40
    assert member.history.train_loss[-1] < 0.1 * member.history.train_loss[0]


def test_same_seed_same_bits_and_other_members_are_others():
    alone = learner(lambda: Reader(p=0.2)).fit()
    several = learner(lambda: Reader(p=0.2), n_members=3).fit()
    again = learner(lambda: Reader(p=0.2), n_members=3).fit()
    assert [bits(m.network) for m in several] == [bits(m.network) for m in again]
    assert bits(several[0].network) == bits(alone[0].network)
    assert several[0].history.train_loss == alone[0].history.train_loss
    assert len({str(bits(m.network)) for m in several}) == 3
    other = learner(lambda: Reader(p=0.2), random_state=1).fit()
    assert bits(other[0].network) != bits(alone[0].network)
    drawn = [learner(random_state=np.random.RandomState(3)).fit()[0] for _ in range(2)]
    assert bits(drawn[0].network) == bits(drawn[1].network)
    free = [learner(random_state=None).fit()[0] for _ in range(2)]
    assert bits(free[0].network) != bits(free[1].network)


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_the_number_of_jobs_and_threads_does_not_matter(n_jobs):
    expected = learner(lambda: Reader(p=0.2), n_members=3, threads=1).fit()
    found = learner(lambda: Reader(p=0.2), n_members=3, n_jobs=n_jobs, threads=1).fit()
    assert [bits(m.network) for m in found] == [bits(m.network) for m in expected]
    assert [m.history.train_loss for m in found] == [m.history.train_loss for m in expected]


def test_validation_is_the_mean_over_rows_and_stops_the_training():
    batches = list(held())
    settings = Settings(max_epochs=60, lr=0.2)
    (member,) = learner(settings=settings, validation=batches, patience=3).fit()
    history = member.history
    best = int(np.argmin(history.val_loss)) + 1
    assert history.best_epoch == best and len(history) == best + 3 < 60
    assert "no better validation loss for 3 epochs" in history.stop_reason
    # the weights of the best epoch, and their loss: every row counts alike
    x, lengths, y = (torch.cat([batch[k] for batch, _ in batches]) for k in range(3))
    with torch.no_grad():
        found = squared(member.network, (x, lengths, y))
    np.testing.assert_allclose(found, history.val_loss[best - 1], rtol=1e-5)
    assert not member.network.training
    # without patience it goes on, and keeps the last weights
    whole = learner(settings=settings, validation=batches).fit()[0].history
    assert len(whole) == whole.best_epoch == 60
    np.testing.assert_array_equal(whole.val_loss[: len(history)], history.val_loss)


def test_another_loss_may_validate():
    def absolute(network, batch):
        x, lengths, y = batch
        assert not network.training and not torch.is_grad_enabled()
        return (network(x, lengths) - y).abs().mean()

    batches = list(held())
    (member,) = learner(validation=batches, validation_loss=absolute).fit()
    with torch.no_grad():
        parts = [absolute(member.network, batch) * n for batch, n in batches]
    np.testing.assert_allclose(member.history.val_loss[-1], sum(parts) / 80, rtol=1e-5)


def test_callbacks_are_made_for_every_member():
    made = []

    class Watch(Callback):
        def __init__(self):
            made.append(self)
            self.steps, self.epochs, self.ended = 0, [], 0

        def on_batch(self, step):
            self.steps += 1

        def on_epoch(self, network, history):
            self.epochs.append(len(history))
            return "enough" if len(history) == 2 else None

        def on_end(self, network, history):
            self.ended += 1

    members = learner(n_members=2, callbacks=[Watch], n_jobs=1).fit()
    assert len(made) == 2
    for watch, member in zip(made, members):
        assert (watch.steps, watch.epochs, watch.ended) == (16, [1, 2], 1)
        assert member.history.stop_reason == "enough"


def test_prime_adjusts_new_networks_and_warm_ones_are_left_alone():
    primed = []

    def prime(network):
        primed.append(bits(network))
        network.head.bias.data.fill_(0.5)

    still = Settings(max_epochs=1, lr=1e-12)
    (new,) = learner(settings=still, prime=prime).fit()
    assert len(primed) == 1
    torch.testing.assert_close(new.network.head.bias, torch.tensor([0.5]))
    (on,) = learner(settings=still, prime=prime, random_state=7).fit([new.network])
    assert len(primed) == 1
    for a, b in zip(on.network.parameters(), new.network.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    # members that there was no network for begin anew
    two = learner(settings=still, prime=prime, n_members=2).fit([new.network])
    assert len(primed) == 2
    torch.testing.assert_close(two[0].network.head.weight, new.network.head.weight)
    with pytest.raises(DataError, match="warm_start needs the same architecture"):
        learner(lambda: Reader(hidden=4)).fit([new.network])


def test_nothing_global_is_touched():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    (member,) = learner(lambda: Reader(p=0.5), random_state=None).fit()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert member.network.dropout.generator is None


def test_the_progress_bar_names_members(capsys):
    learner(n_members=2, n_jobs=1, name="Sums", verbose=1).fit()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Sums 1/2" in shown.err and "Sums 2/2" in shown.err
    assert "48/48" in shown.err


def test_a_member_that_diverges_is_named_and_stops_the_others():
    class Broken(Sums):
        passes = 0

        def epoch(self, generator):
            for x, lengths, y in super().epoch(generator):
                type(self).passes += 1
                yield x, lengths, y * (torch.nan if self.passes > 100 else 1.0)

    long = Settings(max_epochs=10**6, lr=1e-3)
    with pytest.raises(DivergedError, match=r"member [12] of 2: the training loss is nan"):
        learner(source=Broken(), settings=long, n_members=2, n_jobs=2).fit()


def test_a_parameter_that_nobody_fills_is_an_error():
    class Odd(Reader):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1))

    with pytest.raises(TypeError, match="nothing initialises 'shift'"):
        learner(Odd).fit()
