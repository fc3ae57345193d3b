"""From a network factory, a source of batches and a loss to trained members."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.utils import check_random_state
from torch import Tensor, nn

from rnnforecast.exceptions import DataError, DivergedError
from rnnforecast.nn import initialise, set_generator, set_precision
from rnnforecast.training.callbacks import BestWeights, ProgressBar
from rnnforecast.training.loop import BatchSource, Callback, History, Settings, train
from rnnforecast.training.threads import allowed_threads, at_most_threads

__all__ = ["PRECISIONS", "Learner", "Member", "resolve_device", "resolve_precision", "seeds_of"]

# name -> type of the recurrent layers' matrix products in training; None is the weights' own
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}


def resolve_device(owner: str, device: str) -> torch.device:
    """The device named, or for "auto" the first of CUDA, MPS and CPU that is there."""
    mps = torch.backends.mps.is_available()
    there = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{owner}: device must be 'auto', 'cpu', 'cuda' or 'mps'. Got {device!r}"
        ) from error
    if not there.get(chosen.type, False):
        raise DataError(f"{owner}: device {device!r} is not available here: use device='auto'")
    return chosen


def resolve_precision(owner: str, precision: str, device: torch.device) -> torch.dtype | None:
    """The type named in ``PRECISIONS``, if the device computes in it."""
    dtype = PRECISIONS[precision]
    there = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if device.type == "cpu":  # without these instructions it is emulated, slower than float32
        amx = torch.backends.cpu.get_cpu_capability() == "AMX"
        there = amx or torch.cpu._is_avx512_bf16_supported()
    if dtype is not None and not there:
        raise DataError(
            f"{owner}: precision={precision!r} needs a CPU with AVX512-BF16 or AMX, or a CUDA "
            f"device with bfloat16; this {device.type} has none: use precision='float32'"
        )
    return dtype


def seeds_of(random_state: Any, n: int) -> list[int]:
    """Seeds from an int or RandomState; for None from the system, not NumPy's global state."""
    if random_state is None:
        return [int(seed) for seed in np.random.SeedSequence().generate_state(n)]
    source = check_random_state(random_state)
    return [int(source.randint(2**31 - 1)) for _ in range(n)]


class Member(NamedTuple):
    """A trained network and what its training was like."""

    network: Any
    history: History


@dataclass
class Learner:
    """Trains one or more networks of a kind on the same batches.

    Parameters
    ----------
    network : callable
        ``network()`` makes a network; its parameters are filled from the member's generator.
    source : BatchSource
        Batches on ``device``.
    loss : callable
        ``loss(network, batch)`` gives a scalar tensor.
    settings : Settings
    validation : sequence of (batch, size), default ()
        Batches that no weight is trained on, and their weight in the validation loss.
    validation_loss : callable, optional
        As ``loss``, which it is if None.
    prime : callable, optional
        ``prime(network)`` may adjust the first weights of a new network, on the CPU.
    patience : int, optional
        Keep the weights with the least validation loss, and stop after so many epochs without a
        better one. None: train to the end.
    callbacks : sequence of callable, default ()
        Each makes a :class:`~rnnforecast.training.Callback` for every member.
    n_members : int, default 1
        Networks trained from other random starts and in other orders of the batches.
    n_jobs : int, optional
        Members trained at the same time, in threads; None: as many as torch has threads for.
    threads : int, optional
        Threads that torch uses for a member; None: those it may use.
    device : torch.device
    precision : torch.dtype, optional
        Of the recurrent layers' products.
    random_state : int, RandomState or None
    name : str
        In front of the progress bar.
    verbose : int, default 0
        1 shows a progress bar.

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.training import Learner, Settings
    >>> class Line:
    ...     def __len__(self):
    ...         return 20
    ...
    ...     def epoch(self, generator):
    ...         for _ in range(20):
    ...             x = torch.randn(8, 1, generator=generator)
    ...             yield x, 3 * x
    >>> learner = Learner(
    ...     lambda: torch.nn.Linear(1, 1),
    ...     Line(),
    ...     lambda network, batch: (network(batch[0]) - batch[1]).square().mean(),
    ...     Settings(max_epochs=5, lr=0.1),
    ...     random_state=0,
    ... )
    >>> round(learner.fit()[0].network.weight.item(), 1)
    3.0
    """

    network: Callable[[], nn.Module]
    source: BatchSource
    loss: Callable[[Any, Any], Tensor]
    settings: Settings
    validation: Sequence[tuple[Any, float]] = ()
    validation_loss: Callable[[Any, Any], Tensor] | None = None
    prime: Callable[[Any], None] | None = None
    patience: int | None = None
    callbacks: Sequence[Callable[[], Callback]] = ()
    n_members: int = 1
    n_jobs: int | None = None
    threads: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype | None = None
    random_state: Any = None
    name: str = "training"
    verbose: int = 0

    def fit(self, warm: Sequence[nn.Module] = ()) -> list[Member]:
        """Train every member, in threads: torch and the kernels release Python's lock.

        Each uses as many of torch's threads as it would alone, since sums over another number of
        threads differ in the last bits.

        Parameters
        ----------
        warm : sequence of nn.Module
            The first members start from the weights of these.

        Returns
        -------
        list of Member

        Raises
        ------
        DivergedError
            If a member's training diverged; the message names it.
        DataError
            If a network of ``warm`` is of another shape.
        """
        seeds = seeds_of(self.random_state, self.n_members)
        generators = [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]
        olds = warm[: self.n_members]
        networks = [self._start(own, old) for own, old in zip_longest(generators, olds)]
        if self.n_members == 1:
            return [Member(networks[0], self._train(networks[0], generators[0]))]
        stop = _Stop()

        def train_one(k: int) -> History | DivergedError | None:
            named = replace(self, name=f"{self.name} {k + 1}/{self.n_members}")
            try:
                return named._train(networks[k], generators[k], [stop])
            except _Stopped:
                return None
            except DivergedError as error:
                stop.event.set()
                return error

        n_jobs = self.n_jobs
        if n_jobs is None:
            threads = self.threads or allowed_threads()
            n_jobs = min(max(allowed_threads() // threads, 1), self.n_members)
        try:
            found = Parallel(n_jobs=n_jobs, require="sharedmem")(
                delayed(train_one)(k) for k in range(self.n_members)
            )
        finally:
            stop.event.set()
        for k, result in enumerate(found):
            if isinstance(result, DivergedError):
                raise DivergedError(f"member {k + 1} of {self.n_members}: {result}") from result
        return [Member(network, history) for network, history in zip(networks, found, strict=True)]

    def _start(self, generator: torch.Generator, warm: Any) -> nn.Module:
        """A network with its first weights: drawn, or those of ``warm``."""
        with torch.device("meta"):  # torch's own initialisation draws from the global generator
            network = self.network()
        network = network.to_empty(device="cpu")
        if warm is None:
            initialise(network, generator)
            if self.prime is not None:
                self.prime(network)
            return network.to(self.device)
        old, new = warm.state_dict(), network.state_dict()
        same = getattr(warm, "spec", None) == getattr(network, "spec", None)
        if not same or {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
            raise DataError(
                f"{self.name}: warm_start needs the same architecture, look-back and columns as "
                f"the fit before it; fit a clone instead"
            )
        network.load_state_dict({k: v.to(new[k].dtype) for k, v in old.items()})
        return network.to(self.device)

    def _train(
        self, network: nn.Module, generator: torch.Generator, watchers: Iterable[Callback] = ()
    ) -> History:
        callbacks = [*watchers, *(make() for make in self.callbacks)]
        if self.validation and self.patience is not None:
            callbacks.append(BestWeights(self.patience))
        if self.verbose:
            callbacks.append(ProgressBar(self.name, self.settings.max_epochs * len(self.source)))
        noise = generator  # dropout draws where it happens, the order of batches on the CPU
        if self.device.type != "cpu":
            noise = torch.Generator(device=self.device).manual_seed(generator.initial_seed())
        set_generator(network, noise)
        set_precision(network, self.precision)
        validate = self._validate if self.validation else None
        parts = (self.source, self.loss, self.settings, generator, validate, callbacks)
        try:
            with at_most_threads(self.threads or allowed_threads()):
                return train(network, *parts)
        finally:
            set_generator(network, None)
            set_precision(network, None)

    def _validate(self, network: nn.Module) -> float:
        loss = self.validation_loss or self.loss
        batches, sizes = zip(*self.validation, strict=True)
        weights = torch.tensor(sizes, dtype=torch.float64)
        # read once: no synchronisation a batch
        losses = torch.stack([loss(network, batch) for batch in batches]).cpu().double()
        return (losses @ (weights / weights.sum())).item()


class _Stop(Callback):
    """Ends the members' training once one failed or the user interrupted."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def on_batch(self, step: int) -> None:
        if self.event.is_set():
            raise _Stopped


class _Stopped(Exception):
    pass
