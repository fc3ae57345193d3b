"""How far small changes of the history can move a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_int, check_real
from rnnforecast.data.scale import Scale
from rnnforecast.inspection.display import Display, documented, tidy
from rnnforecast.inspection.networks import Windows
from rnnforecast.training import seeds_of

__all__ = ["AdversarialDisplay"]

_CHUNK = 128  # windows at once
_SHOWN = 10  # series


@dataclass(kw_only=True, eq=False, repr=False)
class AdversarialDisplay(Display):
    """How far small changes of the history can move the forecast.

    Every observed target of the look-back may move by ``epsilon`` deviations of its series. The
    forecast, mean over its steps and targets, is pushed up and down along the sign of its gradient,
    in one step (FGSM; Goodfellow et al. 2015, arXiv:1412.6572, section 4) and from there in
    several, each taken back into the budget (PGD; Madry et al. 2018, arXiv:1706.06083, section
    2.1), and compared with random signs of the same size.

    Parameters
    ----------
    shifts : DataFrame
        By series, in deviations of it: how far ``noise`` (mean over draws), ``fgsm`` and ``pgd``
        move the forecast; and ``sensitivity``, that of PGD over ``epsilon``.
    changes : DataFrame
        What PGD adds to the rows of the look-back, in the unit of the data: indexed as
        ``history()``, with columns ("up" or "down", target).
    adversarial_sensitivity_ : float
        Mean of ``sensitivity``. A naive forecast has 1: it moves as far as the history does.
    epsilon : float
    title : str

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepGRUForecaster
    >>> from rnnforecast.inspection import AdversarialDisplay
    >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
    >>> fc = DeepGRUForecaster(max_epochs=1, hidden_size=4, random_state=0).fit(df)
    >>> shifts = AdversarialDisplay.from_estimator(fc, epsilon=0.1).shifts
    >>> bool((shifts["pgd"] >= shifts["fgsm"]).all())
    True
    """

    shifts: pd.DataFrame
    changes: pd.DataFrame
    adversarial_sensitivity_: float
    epsilon: float

    _mosaic = [["shifts"]]

    @classmethod
    @documented
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        future: Any = None,
        series: Any = None,
        epsilon: float = 0.1,
        n_steps: int = 20,
        n_random: int = 20,
        random_state: Any = None,
    ) -> AdversarialDisplay:
        """Attack the next forecast of every series.

        Parameters
        ----------
        epsilon : float, default=0.1
            Largest change of a value, in standard deviations of its series.
        n_steps : int, default=20
            Of PGD.
        n_random : int, default=20
            Random changes to compare with.
        """
        owner = cls.__name__
        check_real(owner, "epsilon", epsilon, 0, closed="neither")
        check_int(owner, "n_steps", n_steps)
        check_int(owner, "n_random", n_random)
        windows = Windows(owner, estimator, X)
        panel, known = windows.panel, windows.known(estimator, future)
        every = np.arange(panel.n_series) if series is None else np.array([windows.number(series)])
        deviation = Scale.of(panel).target_scale
        generator = torch.Generator().manual_seed(seeds_of(random_state, 1)[0])
        sizes, changes = [], []
        for numbers in np.split(every, range(_CHUNK, len(every), _CHUNK)):
            attack = _Attack(windows, numbers, known[numbers], epsilon, deviation[numbers])
            deltas = attack.pgd(n_steps)
            each = [attack.noise(n_random, generator), attack.size(attack.fgsm()).amax(0)]
            sizes.append(torch.stack([*each, attack.size(deltas).amax(0)], 1).double().cpu())
            changes.append(torch.cat([*(deltas * attack.scale)], -1).double().cpu())
        names = pd.Index([", ".join(map(str, windows.targets))])
        ids = panel.ids[every] if panel.is_panel else names
        shifts = pd.DataFrame(torch.cat(sizes).numpy(), ids, ["noise", "fgsm", "pgd"])
        shifts["sensitivity"] = shifts["pgd"] / epsilon
        rows = panel.lengths[every, None] + np.arange(-windows.spec.lookback, 0)
        ways = pd.MultiIndex.from_product([["up", "down"], windows.targets])
        index = panel.index_at(np.repeat(every, rows.shape[1])[rows.ravel() >= 0], rows[rows >= 0])
        return cls(
            shifts=shifts,
            changes=pd.DataFrame(torch.cat(changes).numpy()[rows >= 0], index, ways),
            adversarial_sensitivity_=float(shifts["sensitivity"].mean()),
            epsilon=float(epsilon),
            title=windows.name,
        )

    def _draw_shifts(self, ax: Any) -> None:
        table = self.shifts.sort_values("pgd", ascending=False).iloc[:_SHOWN]
        y, height = np.arange(len(table)), 0.26
        for k, (name, label, color) in enumerate(
            (("noise", "random noise", "0.7"), ("fgsm", "FGSM", "C0"), ("pgd", "PGD", "C3"))
        ):
            ax.barh(y + (k - 1) * height, table[name], height, color=color, label=label)
        ax.axvline(self.epsilon, color="k", lw=0.9, ls=":", label="size of the change")
        ax.set_yticks(y, [str(name) for name in table.index])
        ax.set_ylim(len(y) - 0.5, -0.5)
        tidy(
            ax,
            f"{self.title}: sensitivity {self.adversarial_sensitivity_:.3g}",
            "shift of the mean forecast, in standard deviations of the series",
            "" if len(table) == len(self.shifts) else f"first of {len(self.shifts)} series",
            legend=True,
        )
        ax.grid(axis="y", visible=False)


class _Attack:
    """Windows at the end of some series, and changes of their targets within a budget."""

    def __init__(self, windows: Windows, numbers: np.ndarray, known: Any, epsilon: float, of: Any):
        self.windows, self.numbers = windows, numbers
        self.inputs = windows.take(numbers, windows.panel.lengths[numbers], known).inputs
        x = self.inputs.targets
        self.scale = torch.as_tensor(windows.scale[numbers])[:, None].to(x)
        self.deviation = torch.as_tensor(of)[:, None].to(x)
        # in the unit of the network
        self.budget = epsilon * self.deviation / self.scale * ~torch.isnan(x)
        with torch.no_grad():
            self.plain = self._points(torch.zeros_like(x))

    def _points(self, delta: Tensor) -> Tensor:
        given = self.inputs._replace(targets=self.inputs.targets + delta)
        return self.windows.points(given, self.numbers)

    def shift(self, delta: Tensor) -> Tensor:
        """Of the mean forecast of each series, in deviations of it: (rows,)."""
        return ((self._points(delta) - self.plain) / self.deviation).mean((1, 2))

    @torch.no_grad()
    def size(self, deltas: Tensor) -> Tensor:
        """How far each of several changes moves the forecast: (n, rows)."""
        return torch.stack([self.shift(delta).abs() for delta in deltas])

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """How far random signs move the forecast, mean: (rows,)."""
        signs = torch.randn((n, *self.budget.shape), generator=generator).sign()
        return self.size(self.budget * signs.to(self.budget)).mean(0)

    def _slope(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Signs of the gradient of the shift, and the shift."""
        delta = delta.detach().requires_grad_(True)
        shift = self.shift(delta)
        (grad,) = torch.autograd.grad(shift.sum(), delta)
        return torch.nan_to_num(grad).sign(), shift.detach()

    def fgsm(self) -> Tensor:
        """Changes that push up and down in one step: (2, rows, ...)."""
        up = self.budget * self._slope(torch.zeros_like(self.budget))[0]
        return torch.stack([up, -up])

    def pgd(self, n_steps: int) -> Tensor:
        """As ``fgsm`` and further steps from there, the best of all: (2, rows, ...)."""
        best = self.fgsm()
        for k, sign in enumerate((1, -1)):
            delta, far = best[k], torch.full_like(self.plain[:, 0, 0], -torch.inf)
            for _ in range(n_steps + 1):
                slope, shift = self._slope(delta)
                better = sign * shift > far
                best[k] = torch.where(better[:, None, None], delta, best[k])
                far = torch.where(better, sign * shift, far)
                step = 2.5 / n_steps * self.budget * sign * slope
                delta = torch.clamp(delta + step, -self.budget, self.budget)
        return best
