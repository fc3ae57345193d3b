"""What several members cost, as multiples of one member on ``nn.GRU``.

    python benchmarks/members.py [--members 1 2 4 8 16] [--threads 2] [--rounds 5] [--steps 100]

Every figure is the time of a whole ``fit`` (windows, training, validation, calibration) of the same
number of steps a member, hidden size 32, batch 32, look-back 96. "nn.GRU" is the same forecaster
with torch's own module in the place of the library's GRU layer, one member. All settings take turns
within a round; medians over rounds of the ratio within the round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from rnnforecast import DeepRNNForecaster
from rnnforecast.forecasters import windows
from rnnforecast.nn import Cell, register_cell


@register_cell("nn.GRU")
class _TorchGRU(Cell):
    """Torch's own module, whatever the library uses for "gru"."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.rnn = nn.GRU(input_size, hidden_size, batch_first=True)

    def step(self, x, state):
        outputs, state = self.scan(x[:, None], state)
        return outputs[:, 0], state

    def scan(self, x, state=None, lengths=None):
        assert lengths is None
        outputs, last = self.rnn(x, None if state is None else state[0][None])
        return outputs, (last[0],)


def data() -> pd.DataFrame:
    """20 series of 2,000 hours."""
    index = pd.MultiIndex.from_product(
        [range(20), pd.date_range("2020-01-01", periods=2000, freq="h")], names=["series", "time"]
    )
    return pd.DataFrame({"y": np.random.default_rng(0).standard_normal(len(index))}, index=index)


def seconds(df: pd.DataFrame, cell: str, n_members: int, args: argparse.Namespace) -> float:
    """Time of one fit."""
    forecaster = DeepRNNForecaster(
        cell=cell,
        horizon=24,
        lookback=96,
        segment=args.segment,
        seasonality=24,
        hidden_size=32,
        n_layers=args.layers,
        batch_size=32,
        max_epochs=1,
        n_members=n_members,
        early_stopping=False,
        validation_fraction=0.0125,
        random_state=0,
        device="cpu",
    )
    start = time.perf_counter()
    forecaster.fit(df)
    return time.perf_counter() - start


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="training steps a member")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--segment", type=int, default=1)
    args = parser.parse_args()
    before, most = torch.get_num_threads(), windows._MAX_STEPS
    torch.set_num_threads(args.threads)
    windows._MAX_STEPS = args.steps
    df = data()
    settings = [("nn.GRU", 1), *(("gru", k) for k in args.members)]
    try:
        for cell in ("nn.GRU", "gru"):
            seconds(df, cell, 1, args)  # what a first fit loads is not the fit
        rounds = [[seconds(df, *s, args) for s in settings] for _ in range(args.rounds)]
    finally:
        torch.set_num_threads(before)
        windows._MAX_STEPS = most
    rows = []
    for i, (cell, k) in enumerate(settings):
        ratios = [times[i] / times[0] for times in rounds]
        rows.append(
            {
                "cell": cell,
                "members": k,
                "fit_s": round(statistics.median(times[i] for times in rounds), 3),
                "of_one_nn_gru": round(statistics.median(ratios), 3),
                "least": round(min(ratios), 3),
                "most": round(max(ratios), 3),
            }
        )
    print(f"{args.steps} steps a member, {args.layers} layers, {args.threads} threads")
    print(pd.DataFrame(rows).to_string(index=False))
    print(json.dumps({"benchmark": "members", **vars(args), "rows": rows}))


if __name__ == "__main__":
    main()
