"""The segment-wise recurrent forecaster of Lin et al. 2023 ("SegRNN")."""

from __future__ import annotations

from functools import partial
from typing import Any

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data.seasonality import choose_lookback
from rnnforecast.forecasters.windows import WindowForecaster
from rnnforecast.nn.segment import SegmentNetwork, SegmentSpec
from rnnforecast.parameters import checked, estimator

__all__ = ["SegmentRNNForecaster", "choose_long_lookback", "choose_long_segment"]

# name -> what is taken off a window
_SHIFTS = {"last": "last", "window": "mean", "series": "none", None: "none"}
_MOST_SEGMENT = 48  # Lin et al. 2023, section 4.1
_LEAST_SEGMENTS = 4
choose_long_lookback = partial(choose_lookback, seasons=30, most=720)


def choose_long_segment(season: int, lookback: int) -> int:
    """The season, or the longest whole part of it (a half, a third, ...), that has at most 48 steps
    and fits four times into the look-back; without a season, an eighth of the look-back.

    >>> [choose_long_segment(season, 720) for season in (24, 96, 144, 7, 1)]
    [24, 48, 48, 7, 48]
    """
    if season == 1:
        return min(max(lookback // (2 * _LEAST_SEGMENTS), 1), _MOST_SEGMENT)
    most = max(min(_MOST_SEGMENT, lookback // _LEAST_SEGMENTS), 1)
    return max(n for n in range(1, most + 1) if season % n == 0)


@estimator
class SegmentRNNForecaster(WindowForecaster):
    """Recurrent network over segments of a long look-back (Lin et al. 2023, "SegRNN").

    Targets are samples of their own with shared weights, told apart by an embedding. Each window is
    taken relative to its last value, its segments are embedded and read by one recurrent layer, and
    all segments of the horizon are decoded at once, each by one step of the same layer from the
    last state.

    Known covariates act on the targets of their own step, as in a regression (see
    :class:`~rnnforecast.nn.WindowNetwork`); past covariates of a segment join its embedding, static
    ones the decoder's.

    Parameters
    ----------
    lookback : int, optional
        Rows that a forecast may look back on; what a series has not is masked. None: thirty seasons
        or two horizons, whichever is longer, between 24 and 720, and at most half of what the
        typical (median) series has beside one horizon.
    cell : {"gru", "lstm", "rnn"}, another registered name or a subclass of Cell, default "gru"
    hidden_size : int, default 64
        Units of the recurrent layer; even numbers share the embedding equally.
    segment : int, optional
        Steps folded into one step of the network. None: the season, or the longest whole part of
        it, that has at most 48 steps and fits four times into the look-back; without a season, an
        eighth of the look-back.
    dropout : float, default 0.15
        Share of decoded units dropped in training, in [0, 1).
    scaler : {"last", "window", "series", None}, default "last"
        "series": each series by its mean and deviation over the rows of fit. "last": besides, each
        window less its last value (Lin et al. 2023, eq. 3), from which the forecast starts; without
        a season it starts between last value and mean of the window and the mean of the series,
        where it errs least. "window": instead, each
        window by its own mean and deviation (reversible instance normalisation). None: values as
        they are.
    seasonality : int, optional
        Seasonal period in steps; 1 for none. None: from the calendar, else from the
        autocorrelation. It is read by the rules for look-back and segment alone.
    batch_size : int, default 32
        Windows of all targets.
    lr : float, default 4e-3

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from rnnforecast import SegmentRNNForecaster
    >>> index = pd.date_range("2024-01-01", periods=400, freq="h")
    >>> df = pd.DataFrame({"load": 10 + np.sin(np.arange(400) * np.pi / 12)}, index=index)
    >>> fc = SegmentRNNForecaster(horizon=24, hidden_size=8, max_epochs=2, random_state=0).fit(df)
    >>> fc.lookback_, fc.segment_
    (188, 24)
    >>> fc.forecast().shape
    (24, 1)
    """

    cell: Any = "gru"
    hidden_size: int | None = checked(64, check_int)
    dropout: float = 0.15
    scaler: str | None = checked("last", check_choice, choices=_SHIFTS)
    batch_size: int | None = 32
    lr: float = 4e-3

    _lookback_rule = staticmethod(choose_long_lookback)
    _segment_rule = staticmethod(choose_long_segment)

    # -- hooks -------------------------------------------------------------------------------------

    def _network(self, shape: dict[str, Any]) -> Any:
        pull = self.scaler == "last" and self.seasonality_ == 1
        return SegmentNetwork(SegmentSpec(**shape, shift=_SHIFTS[self.scaler], pull=pull))
