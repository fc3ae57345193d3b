"""Deep recurrent forecasters: one general class, and the named ones in a few lines each."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_bool, check_choice, check_int, check_real
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn import Depth, ForecastNetwork, NetworkSpec, as_dilations, cell_class
from rnnforecast.nn.attention import ATTENTIONS
from rnnforecast.parameters import checked, estimator

__all__ = [
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
]

_SWITCHES = ("variational_dropout", "input_to_all", "layer_norm", "orthogonal")


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
    activation : {"tanh", "relu", "leaky_relu", "sigmoid"}, optional
        Of the cells that have a choice, "rnn" (tanh by default) and "indrnn" (relu).
    dilations : sequence of sequences of int, optional
        Blocks of layers, and the dilation of each, in place of ``n_layers``: a layer of dilation d
        goes on from its state of d steps ago (Chang et al. 2017).
    input_to_all : bool, default False
        Every layer reads the input too (Graves 2013).
    output_from_all : {False, "sum", "supervised"}, default False
        The read-out sees every layer, y = sum over l of (W_l h_l + b_l) (Graves 2013).
        "supervised": each layer's own forecast is trained against the truth, and their mean is the
        forecast.
    layer_norm : bool, default False
        Normalise the outputs of each layer (Ba et al. 2016).
    variational_dropout : bool, default False
        ``dropout`` drops the same units in all steps of a window (Gal & Ghahramani 2016).
    zoneout : float, default 0.0
        Share of the state that stays as it was at a step of training, in [0, 1) (Krueger et al.
        2017). Layers then run step by step, without the compiled kernels.
    orthogonal : bool, default False
        Square blocks of recurrent weights start orthogonal (Saxe et al. 2014).
    forget_bias : float, optional
        Bias that forget gates start with; 1 lets gradients through (Jozefowicz et al. 2015).
    attention : {"additive", "dot", "multihead"}, optional
        Each step ahead attends to the encoder's outputs of the whole look-back; see
        :meth:`attention_weights`.
    decoder : {"direct", "recurrent"}, default "direct"
        "direct": all steps ahead are one linear map of the last state. "recurrent": further
        recurrent layers go on from the encoder's states, one step of theirs for each step ahead.
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
    activation: str | None = None
    dilations: Any = None
    input_to_all: bool = checked(False, check_bool)
    output_from_all: Any = checked(False, check_choice, choices=(False, "sum", "supervised"))
    layer_norm: bool = checked(False, check_bool)
    variational_dropout: bool = checked(False, check_bool)
    zoneout: float = checked(0.0, check_real, low=0, high=1, closed="low")
    orthogonal: bool = checked(False, check_bool)
    forget_bias: float | None = checked(None, check_real, low=-inf, none=True)
    attention: str | None = checked(None, check_choice, choices=(None, *ATTENTIONS))
    decoder: str = checked("direct", check_choice, choices=("direct", "recurrent"))
    calendar: bool = checked(True, check_bool)

    _fixed: ClassVar[tuple[str, ...]] = ()  # parameters that a named forecaster has no choice of

    # -- fit ---------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        cell_class(self.cell, owner, self.activation)
        if self.dilations is not None:
            as_dilations(owner, self.dilations)
        for name in self._fixed:
            if getattr(self, name) != (only := getattr(type(self), name)):
                raise DataError(
                    f"{owner}: {name} must be {only!r}. Got {getattr(self, name)!r}: use "
                    f"DeepRNNForecaster to choose it"
                )
        whole = self.bidirectional or self.attention is not None or self.decoder == "recurrent"
        supervised = self.output_from_all == "supervised"
        if self.training == "dense" and (whole or supervised):
            raise DataError(
                f"{owner}: training='dense' reads every window of a stretch in one pass, which a "
                f"bidirectional encoder, attention, a recurrent decoder and supervised layers "
                f"cannot: use training='windows'"
            )
        if supervised and self.decoder == "recurrent":
            raise DataError(
                f"{owner}: output_from_all='supervised' needs decoder='direct', which reads the "
                f"layers of the encoder. Got 'recurrent'"
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
                dilations=None if self.dilations is None else as_dilations("", self.dilations),
                attention=self.attention,
                decoder=self.decoder,
                supervised=self.output_from_all == "supervised",
                depth=Depth(
                    output_from_all=bool(self.output_from_all),
                    variational=bool(self.variational_dropout),
                    zoneout=float(self.zoneout),
                    activation=self.activation,
                    forget_bias=self.forget_bias,
                    **{name: bool(getattr(self, name)) for name in _SWITCHES[1:]},
                ),
            )
        )

    def attention_weights(self, X: Any = None, *, history: Any = None) -> pd.DataFrame:
        """How much each step of the next forecast attends to each step of the look-back.

        Parameters
        ----------
        X : ignored
            There for the same place as in :meth:`forecast`.
        history : as in forecast, optional

        Returns
        -------
        DataFrame
            Indexed as :meth:`forecast`, with columns (target, lag): lag 0 is the last row known,
            and where ``segment_`` rows make one step of the network, a lag is that of their last
            one. Rows add up to 1 for each target; mean over members.

        Raises
        ------
        DataError
            If ``attention`` is None.
        """
        check_is_fitted(self, "panel_")
        if self.attention is None:
            raise DataError(f"{type(self).__name__}: attention is None: fit with attention='dot'")
        at = self if history is None else self._on(history)
        panel, spec = at.panel_, self.network_.spec
        with torch.inference_mode():
            inputs = [
                at._inputs(each, panel, np.arange(panel.n_series), panel.lengths)
                for each in self.networks_
            ]
            found = [each.weights(one) for each, one in zip(self.networks_, inputs, strict=True)]
        weights = torch.stack(found).mean(0).cpu().double().numpy()
        n, names = weights.shape[-1], self.target_names_ if spec.independent else ["all"]
        names = names if len(self.target_names_) > 1 else self.target_names_
        weights = weights.reshape(panel.n_series, -1, self.horizon, n).swapaxes(1, 2)
        columns = pd.MultiIndex.from_product(
            [names, [spec.segment * (n - 1 - k) for k in range(n)]], names=["target", "lag"]
        )
        index = at.future_index()
        return pd.DataFrame(weights.reshape(len(index), -1), index=index, columns=columns)


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
