"""Forecast the temperature at three airports a day ahead, and see who does it best.

Run it with ``make demo``. It trains on data that ship with the package: hourly weather of 2013 at
the three airports of New York, with missing hours and values left as they are. Two recurrent
networks, trained over all three stations at once, meet three classical forecasts, fitted station by
station. All forecast the next 24 hours from each of the last 28 midnights (UTC) that the data hold.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

import rnnforecast as rf
from rnnforecast.datasets import load_nyc_weather
from rnnforecast.plotting import forecast_figure

HORIZON = 24
ORIGINS = 28
PICTURE = Path("demo_forecast.png")


def forecasters() -> dict:
    """Return the five to compare; every one takes the same frame."""
    shared = {"horizon": HORIZON, "target": "temp"}
    # smaller and shorter than the defaults, to be done within two minutes
    network = {"lookback": 72, "hidden_size": 32, "max_epochs": 8, "random_state": 0, "verbose": 1}
    return {
        "DeepLSTM": rf.DeepLSTMForecaster(**shared, **network),
        "BiGRU": rf.BiGRUForecaster(**shared, **network, n_layers=1),
        "seasonal naive": rf.NaiveForecaster(**shared, strategy="seasonal"),
        "ETS": rf.ETSForecaster(**shared),
        "ARIMA": rf.ARIMAForecaster(**shared, order=(2, 0, 1)),
    }


def show(board: pd.DataFrame) -> None:
    """Print the leaderboard."""
    n_origins = board.attrs["n_origins"]
    table = pd.DataFrame(
        {
            "MASE": board["mase"].map("{:.3f}".format),
            "± over days": board["mase_std"].map("{:.3f}".format),
            "MAE °F": board["mae"].map("{:.2f}".format),
            "in 90 %": board["coverage"].map("{:.0%}".format),
            "wins": board["wins"].map(lambda share: "" if pd.isna(share) else f"{share:.0%}"),
            "DM p": board["dm_pvalue"].map(lambda p: "" if pd.isna(p) else f"{p:.3f}"),
            "fit s": (board["fit_seconds"] * n_origins).map("{:.1f}".format),
            "predict s": (board["predict_seconds"] * n_origins).map("{:.2f}".format),
        }
    )
    print(table.rename_axis(None).to_string())
    naive, baseline = board.attrs["naive"], board.attrs["baseline"]
    print(
        f"""
MASE       mean absolute error, over that of the seasonal naive forecast in the training rows
in 90 %    share of hours that the 90 % intervals held
wins       share of (day, station) in which the model beats '{naive}'
DM p       Diebold-Mariano test against '{baseline}', the best classical forecast
fit s      one fit and {n_origins - 1} updates with a new day
predict s  {n_origins} forecasts of a day, with intervals"""
    )


def main() -> None:
    """Compare, then draw the last day."""
    began = time.perf_counter()
    # Humidity and pressure are known only up to now: past covariates, since they are not in known=.
    weather = load_nyc_weather()[["temp", "dewp", "pressure"]]
    models = forecasters()
    print(f"{len(weather):,} hours at {', '.join(weather.index.unique('station'))}\n")
    board = rf.compare(
        models,
        weather,
        horizon=HORIZON,
        n_origins=ORIGINS,
        refit=False,
        coverage=0.9,
        metrics=("mase", "mae", "coverage"),
        verbose=1,
    )
    print()
    show(board)

    last_day = weather.index.unique("time").sort_values()[-HORIZON]
    stamps = weather.index.get_level_values("time")
    past, truth = weather[stamps < last_day], weather[stamps >= last_day]
    best = next(name for name in board.index if name in ("DeepLSTM", "BiGRU"))
    print(f"\nfitting {best} once more, up to the last day, for the picture")
    forecaster = models[best].fit(past)
    bands = forecaster.forecast(quantiles=[0.05, 0.25, 0.5, 0.75, 0.95])
    figure = forecast_figure(forecaster.history(), bands, truth[["temp"]])
    figure.suptitle(f"{best}: temperature (°F) of the last day, forecast the midnight before")
    figure.savefig(PICTURE, dpi=120)
    print(f"\nwrote {PICTURE} after {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
