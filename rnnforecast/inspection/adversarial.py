"""How far small changes of the history can move a forecast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnforecast._validation import check_int, check_real
from rnnforecast.data.scale import Scale
from rnnforecast.inspection.display import Display, tidy
from rnnforecast.inspection.networks import Windows
from rnnforecast.training import seeds_of

__all__ = ["AdversarialDisplay"]

_CHUNK = 128  # windows at once
_SHOWN = 10  # series


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

    title: str
    shifts: pd.DataFrame
    changes: pd.DataFrame
    adversarial_sensitivity_: float
    epsilon: float

    _mosaic = [["shifts"]]

    @classmethod
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
            inputs = windows.take(numbers, panel.lengths[numbers], known[numbers]).inputs
            unit, scale = (
                torch.as_tensor(part[numbers])[:, None].to(inputs.targets)
                for part in (deviation, windows.scale)
            )
            budget = epsilon * unit / scale * ~torch.isnan(inputs.targets)  # in the network's unit
            shift = _shift(windows, inputs, numbers, unit)
            signs = torch.randn((n_random, *budget.shape), generator=generator).sign().to(budget)
            single, several = _attacked(shift, budget, n_steps)
            with torch.no_grad():
                noise, *far = (
                    torch.stack([shift(delta).abs() for delta in deltas])
                    for deltas in (budget * signs, single, several)
                )
            sizes.append(torch.stack([noise.mean(0), *(each.amax(0) for each in far)], 1))
            changes.append(torch.cat([*(several * scale)], -1).double().cpu())
        names = pd.Index([", ".join(map(str, windows.targets))])
        ids = panel.ids[every] if panel.is_panel else names
        values = torch.cat(sizes).double().cpu().numpy()
        shifts = pd.DataFrame(values, ids, ["noise", "fgsm", "pgd"])
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


def _shift(windows: Windows, inputs: Any, numbers: np.ndarray, unit: Tensor) -> Any:
    """How far a change of the targets moves the mean forecast of each series, in deviations."""

    def points(delta: Any) -> Tensor:
        return windows.points(inputs._replace(targets=inputs.targets + delta), numbers)

    with torch.no_grad():
        plain = points(0.0)
    return lambda delta: ((points(delta) - plain) / unit).mean((1, 2))


def _attacked(shift: Any, budget: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Changes that push up and down: in one step, and the best on the way of several from there,
    each (2, rows, ...).
    """

    def slope(delta: Tensor) -> tuple[Tensor, Tensor]:
        delta = delta.detach().requires_grad_(True)
        far = shift(delta)
        (grad,) = torch.autograd.grad(far.sum(), delta)
        return torch.nan_to_num(grad).sign(), far.detach()

    up = budget * slope(torch.zeros_like(budget))[0]
    single = torch.stack([up, -up])
    best = single.clone()
    for k, sign in enumerate((1, -1)):
        delta, far = single[k], budget.new_full((len(budget),), -torch.inf)
        for _ in range(n_steps + 1):
            direction, now = slope(delta)
            better = sign * now > far
            best[k] = torch.where(better[:, None, None], delta, best[k])
            far = torch.where(better, sign * now, far)
            step = 2.5 / n_steps * sign * budget * direction
            delta = torch.clamp(delta + step, -budget, budget)
    return single, best
