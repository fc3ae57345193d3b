"""Deep recurrent forecasters: one general class, and the named ones in a few lines each."""

from __future__ import annotations

from typing import Any, ClassVar

from rnnforecast._validation import check_bool, check_choice, check_int
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.parameters import estimator
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn import ForecastNetwork, NetworkSpec

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
    lookback : int, optional
        Rows that a forecast may look back on; what a series has not is masked. None: seven seasons
        or two horizons, whichever is longer, between 24 and 336, and at most half of what the
        typical (median) series has beside one horizon.
    hidden_size : int, optional
        Units of each layer and direction. None: 64 where at least 100,000 windows train, else 32.
    segment : int, optional
        Neighbouring steps of the look-back folded into one step of the network. None: a season,
        where the look-back holds two at least; else 1, step by step.
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

    n_layers: int = 2
    training: str = "windows"
    channels: str = "independent"
    bidirectional: bool = False
    residual: bool = False
    calendar: bool = True

    _fixed: ClassVar[dict[str, Any]] = {}  # parameters that a named forecaster leaves no choice of

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "n_layers", self.n_layers)
        for name in ("bidirectional", "residual", "calendar"):
            check_bool(owner, name, getattr(self, name))
        for name, choices in (
            ("scaler", ("window", "series", None)),
            ("training", ("windows", "dense")),
            ("channels", ("independent", "joint")),
        ):
            check_choice(owner, name, getattr(self, name), choices)
        for name, only in self._fixed.items():
            if getattr(self, name) != only:
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
                normalise=self.scaler == "window",
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

    _fixed = {"cell": "lstm"}


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

    _fixed = {"cell": "gru"}


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

    _fixed = {"cell": "lstm", "bidirectional": True}


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

    _fixed = {"cell": "gru", "bidirectional": True}
