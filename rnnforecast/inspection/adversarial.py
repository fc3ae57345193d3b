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
from rnnforecast.inspection.display import Display, tidy, time_axis
from rnnforecast.inspection.networks import Windows, read_windows
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

    Parts: ``"shifts"``, ``"example"`` (of the most sensitive series).

    Parameters
    ----------
    shifts : DataFrame
        By series, in deviations of it: how far ``noise`` (mean over draws), ``fgsm`` and ``pgd``
        move the forecast; and ``sensitivity``, that of PGD over ``epsilon``.
    adversarial_sensitivity_ : float
        Mean of ``sensitivity``. A naive forecast has 1: it moves as far as the history does.
    epsilon : float
    example_history, example_forecast : DataFrame
        With columns ``observed`` (``forecast``), ``up`` and ``down``, in the unit of the data.
    title, unit : str

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
    adversarial_sensitivity_: float
    epsilon: float
    example_history: pd.DataFrame
    example_forecast: pd.DataFrame
    title: str = ""
    unit: str = ""
    example: str = ""

    _mosaic = [["shifts"], ["example"]]
    _size = (9.0, 6.4)

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
        estimator, X, future
            As of :meth:`AttributionDisplay.from_estimator`.
        series : hashable, optional
            This one alone; all if None.
        epsilon : float, default 0.1
            Largest change of a value, in standard deviations of its series.
        n_steps : int, default 20
            Of PGD.
        n_random : int, default 20
            Random changes to compare with.
        random_state : int, RandomState or None

        Returns
        -------
        AdversarialDisplay

        Raises
        ------
        DataError
            If the estimator has no such network, or future covariates are missing.
        """
        owner = cls.__name__
        check_real(owner, "epsilon", epsilon, 0, closed="neither")
        check_int(owner, "n_steps", n_steps)
        check_int(owner, "n_random", n_random)
        windows, future = read_windows(owner, estimator, X, future)
        panel = windows.panel
        every = np.arange(panel.n_series) if series is None else np.array([windows.number(series)])
        deviation = Scale.of(panel).target_scale
        generator = torch.Generator().manual_seed(seeds_of(random_state, 1)[0])
        found, moved = [], []
        for numbers in np.split(every, range(_CHUNK, len(every), _CHUNK)):
            attack = _Attack(windows, numbers, future, epsilon, deviation)
            noise = attack.noise(n_random, generator)
            single, several = attack.fgsm(), attack.pgd(n_steps)
            sizes = [noise, *(attack.size(delta).amax(0) for delta in (single, several))]
            found.append(torch.stack(sizes, 1).double().cpu().numpy())
            moved.append((attack, several))
        values = np.concatenate(found)
        names = pd.Index([", ".join(map(str, windows.targets))])
        ids = panel.ids[every] if panel.is_panel else names
        shifts = pd.DataFrame(values, index=ids, columns=["noise", "fgsm", "pgd"])
        shifts["sensitivity"] = shifts["pgd"] / epsilon
        worst = int(shifts["pgd"].to_numpy().argmax())
        attack, several = moved[worst // _CHUNK]
        history, forecast = attack.example(worst % _CHUNK, several)
        return cls(
            shifts=shifts,
            adversarial_sensitivity_=float(shifts["sensitivity"].mean()),
            epsilon=float(epsilon),
            example_history=history,
            example_forecast=forecast,
            title=windows.name,
            unit=str(windows.targets[0]),
            example=windows.title(int(every[worst]), 0).partition(", ")[2],
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

    def _draw_example(self, ax: Any) -> None:
        both = pd.concat([self.example_history, self.example_forecast])
        x, n = time_axis(ax, both.index), len(self.example_history)
        for name, color, label in (("up", "C3", "pushed up"), ("down", "C0", "pushed down")):
            ax.plot(x[:n], both[name].iloc[:n], color=color, lw=0.8, alpha=0.8)
            ax.plot(x[n:], both[name].iloc[n:], color=color, lw=1.8, marker=".", label=label)
        ax.plot(x[:n], both["observed"].iloc[:n], color="0.3", lw=1.2, label="observed")
        ax.plot(x[n:], both["forecast"].iloc[n:], "k.-", lw=1.8, label="forecast")
        ax.margins(x=0.01)
        tidy(ax, self.example, str(both.index.name or ""), self.unit, legend=True)


class _Attack:
    """Windows at the end of some series, and changes of their targets within a budget."""

    def __init__(
        self, windows: Windows, numbers: np.ndarray, future: Any, epsilon: float, unit: np.ndarray
    ):
        self.windows, self.numbers = windows, numbers
        self.origins, batch = windows.ends(numbers, future)
        self.inputs = batch.inputs
        x = self.inputs.targets
        self.scale = torch.as_tensor(windows.scale[numbers])[:, None].to(x)
        self.unit = torch.as_tensor(unit[numbers])[:, None].to(x)
        observed = ~torch.isnan(x)
        self.budget = epsilon * self.unit / self.scale * observed  # in the unit of the network
        with torch.no_grad():
            self.plain = self._points(torch.zeros_like(x))

    def _points(self, delta: Tensor) -> Tensor:
        given = self.inputs._replace(targets=self.inputs.targets + delta)
        return self.windows.points(given, self.numbers)

    def shift(self, delta: Tensor) -> Tensor:
        """Of the mean forecast of each series, in deviations of it: (rows,)."""
        return ((self._points(delta) - self.plain) / self.unit).mean((1, 2))

    @torch.no_grad()
    def size(self, deltas: Tensor) -> Tensor:
        """How far each of several changes moves the forecast: (n, rows)."""
        return torch.stack([self.shift(delta).abs() for delta in deltas])

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """How far random signs move the forecast, mean: (rows,)."""
        signs = torch.randn((n, *self.budget.shape), generator=generator).sign()
        return self.size(self.budget * signs.to(self.budget)).mean(0)

    def _slope(self, delta: Tensor) -> Tensor:
        delta = delta.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(self.shift(delta).sum(), delta)
        return torch.nan_to_num(grad).sign()

    def fgsm(self) -> Tensor:
        """Changes that push up and down in one step: (2, rows, ...)."""
        up = self.budget * self._slope(torch.zeros_like(self.budget))
        return torch.stack([up, -up])

    def pgd(self, n_steps: int) -> Tensor:
        """As ``fgsm`` and further steps from there, the best of all: (2, rows, ...)."""
        best = self.fgsm()
        for k, sign in enumerate((1, -1)):
            delta = best[k]
            with torch.no_grad():
                far = sign * self.shift(delta)
            for _ in range(n_steps):
                step = 2.5 / n_steps * self.budget * sign * self._slope(delta)
                delta = torch.clamp(delta + step, -self.budget, self.budget)
                with torch.no_grad():
                    now = sign * self.shift(delta)
                better = now > far
                best[k] = torch.where(better[:, None, None], delta, best[k])
                far = torch.where(better, now, far)
        return best

    @torch.no_grad()
    def example(self, row: int, deltas: Tensor) -> tuple[pd.DataFrame, pd.DataFrame]:
        """History and forecast of one window, first target, as they are and pushed up and down."""
        i, origin = int(self.numbers[row]), int(self.origins[row])
        panel, horizon = self.windows.panel, self.windows.horizon
        seen = panel.targets[panel.series(i)][:origin, 0].astype(float)[-self.budget.shape[1] :]
        moves = (deltas * self.scale)[:, row, :, 0].double().cpu().numpy()[:, -len(seen) :]
        past = np.stack([seen, *(seen + moves)], 1)
        points = [self.plain, *map(self._points, deltas)]
        ahead = np.stack([p[row, :, 0].double().cpu().numpy() for p in points], 1)
        rows = np.arange(origin - len(seen), origin + horizon)
        index = panel.stamps_at(np.full(len(rows), i), rows)
        history = pd.DataFrame(past, index[: len(seen)], ["observed", "up", "down"])
        return history, pd.DataFrame(ahead, index[len(seen) :], ["forecast", "up", "down"])
