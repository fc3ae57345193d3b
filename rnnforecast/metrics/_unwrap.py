"""Old place of `rnnforecast.metrics.wrappers`, until its importers have moved."""

from rnnforecast.metrics.wrappers import Unwrapped as unwrap
from rnnforecast.metrics.wrappers import innermost, interval_of, quantiles_of

__all__ = ["innermost", "interval_of", "quantiles_of", "unwrap"]
