"""Deep recurrent forecasters: one general class, and the named ones in a few lines each."""

from __future__ import annotations

from typing import Any, ClassVar

from rnnforecast._validation import check_bool, check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn import ForecastNetwork, NetworkSpec
from rnnforecast.parameters import checked, estimator

__all__ = [
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
]


@estimator
class DeepRNNForecaster(WindowForecaster):
    """Stacked recurrent network that forecasts all steps of the horizon at once.

    One global model is trained over all series of a panel. The look-back window is normalised, read
    by recurrent layers, and decoded into deviations from an anchor: a learnt mixture of the last
    value, the mean and the last season of the window, so that the untrained network already is the
    best of these naive forecasts.

    Parameters
    ----------
    n_layers : int, default 2
    training : {"windows", "dense"}, default "windows"
        "windows": every window is encoded by itself. "dense": a stretch of neighbouring windows is
        encoded in one pass, each reading the state that has come that far.
    channels : {"independent", "joint"}, default "independent"
        How several targets are read: each by itself, as rows of one network with shared weights, or
        all together.
    bidirectional : bool, default False
        Read the look-back in both directions.
    residual : bool, default False
        Add each upper layer's input to its output.
    calendar : bool, default True
        Tell the network the phase of the week and of the year at the origin of a forecast, where
        the time stamps have them and the rows show that they matter (see
        :func:`~rnnforecast.data.phases.choose_phases`; ``phases_`` has the choice).

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import DeepRNNForecaster
    >>> index = pd.date_range("2024-01-01", periods=200, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(200) * np.pi / 12)}, index=index)
    >>> fc = DeepRNNForecaster(horizon=3, cell="gru", max_epochs=2, random_state=0).fit(df)
    >>> fc.lookback_, fc.seasonality_
    (98, 24)
    >>> forecast = fc.forecast()
    >>> forecast.index[0], forecast.shape
    (Timestamp('2024-01-09 08:00:00'), (3, 1))
    """

    n_layers: int = checked(2, check_int)
    training: str = checked("windows", check_choice, choices=("windows", "dense"))
    channels: str = checked("independent", check_choice, choices=("independent", "joint"))
    bidirectional: bool = checked(False, check_bool)
    residual: bool = checked(False, check_bool)
    calendar: bool = checked(True, check_bool)

    _fixed: ClassVar[tuple[str, ...]] = ()  # parameters that a named forecaster has no choice of

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in self._fixed:
            if getattr(self, name) != (only := getattr(type(self), name)):
                raise DataError(
                    f"{owner}: {name} must be {only!r}. Got {getattr(self, name)!r}: use "
                    f"DeepRNNForecaster to choose it"
                )
        if self.training == "dense" and self.bidirectional:
            raise DataError(
                f"{owner}: training='dense' reads every window of a stretch in one pass, which a "
                f"bidirectional encoder cannot: use training='windows'"
            )

    # -- hooks -------------------------------------------------------------------------------------

    def _network(self, shape: dict[str, Any]) -> Any:
        return ForecastNetwork(
            NetworkSpec(
                **shape,
                season=self.seasonality_,
                n_layers=self.n_layers,
                bidirectional=self.bidirectional,
                residual=self.residual,
                shift="mean" if self.scaler == "window" else "none",
                independent=self.channels == "independent" and shape["n_targets"] > 1,
            )
        )


@estimator
class DeepLSTMForecaster(DeepRNNForecaster):
    """Stacked LSTM: :class:`DeepRNNForecaster` with ``cell="lstm"``.

    Examples
    --------
    >>> from rnnforecast import DeepLSTMForecaster
    >>> DeepLSTMForecaster(horizon=24).cell
    'lstm'
    """

    _fixed = ("cell",)


@estimator
class DeepGRUForecaster(DeepRNNForecaster):
    """Stacked GRU: :class:`DeepRNNForecaster` with ``cell="gru"``.

    Examples
    --------
    >>> from rnnforecast import DeepGRUForecaster
    >>> DeepGRUForecaster(horizon=24).cell
    'gru'
    """

    cell: Any = "gru"

    _fixed = ("cell",)


@estimator
class BiLSTMForecaster(DeepRNNForecaster):
    """Stacked LSTM that reads the look-back in both directions: :class:`DeepRNNForecaster` with
    ``cell="lstm", bidirectional=True``.

    Examples
    --------
    >>> from rnnforecast import BiLSTMForecaster
    >>> BiLSTMForecaster().bidirectional
    True
    """

    bidirectional: bool = True

    _fixed = ("cell", "bidirectional")


@estimator
class BiGRUForecaster(DeepRNNForecaster):
    """Stacked GRU that reads the look-back in both directions: :class:`DeepRNNForecaster` with
    ``cell="gru", bidirectional=True``.

    Examples
    --------
    >>> from rnnforecast import BiGRUForecaster
    >>> BiGRUForecaster().bidirectional
    True
    """

    cell: Any = "gru"
    bidirectional: bool = True

    _fixed = ("cell", "bidirectional")
