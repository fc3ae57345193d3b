"""Real data: small files that come with the package, and benchmark sets by download.

``load_sp500``, ``load_nyc_weather`` and ``load_seattle_weather`` read files of the package itself,
``load_co2`` and ``load_sunspots`` those of statsmodels; none needs a network. ``load_ett``,
``load_m4`` and ``load_weather_benchmark`` look on disk first, then download.

Values are what the sources give. Missing values and gaps are left as they are and described below.
"""

from __future__ import annotations

import copy
import hashlib
import http.client
import json
import os
import sys
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice
from rnnforecast.exceptions import DataError, RNNForecastError

__all__ = [
    "describe",
    "load_co2",
    "load_ett",
    "load_m4",
    "load_nyc_weather",
    "load_seattle_weather",
    "load_sp500",
    "load_sunspots",
    "load_weather_benchmark",
]

PathLike = str | os.PathLike[str] | None
_RETRIES, _DELAY = 3, 1  # of a download that fails, and the seconds between them


# Files of the package itself


def _bundled(name: str) -> Any:
    """Locate a bundled file: inside the installed package, or at the top of a source checkout."""
    checkout = Path(__file__).resolve().parent.parent / "datasets"
    for folder in (files("rnnforecast") / "_datasets", checkout):
        if (folder / name).is_file():
            return folder / name
    raise RNNForecastError(
        f"the data file {name} is missing from the installation: reinstall rnnforecast"
    )


@cache
def _manifest(name: str = "manifest.json") -> dict[str, dict[str, Any]]:
    return json.loads(_bundled(name).read_text(encoding="utf-8"))


def describe(name: str) -> dict[str, Any]:
    """Tell where a bundled data set comes from and what its columns mean.

    Parameters
    ----------
    name : {"sp500", "nyc_weather", "seattle_weather"}
        Name of the data set: that of its ``load_`` function.

    Returns
    -------
    dict
        ``description``, ``source``, ``licence``, ``columns`` (name to meaning and unit), ``rows``,
        ``file`` and ``sha256``.

    Raises
    ------
    DataError
        If there is no such data set.

    Examples
    --------
    >>> describe("nyc_weather")["licence"]
    'CC0-1.0'
    >>> describe("nyc_weather")["columns"]["temp"]
    'temperature, degrees Fahrenheit'
    """
    check_choice("describe", "name", name, _manifest())
    return copy.deepcopy(_manifest()[name])


def _read_bundled(name: str, **options: Any) -> pd.DataFrame:
    with as_file(_bundled(_manifest()[name]["file"])) as path:
        return _read_csv(path, **options)


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a file, by default of dated rows, with the floats nearest to what it says."""
    options = options or {"index_col": "date", "parse_dates": ["date"]}
    if pd.__version__ < "3":  # pandas 3 needs no telling
        options["float_precision"] = "round_trip"
    return pd.read_csv(path, **options)


def load_sp500() -> pd.DataFrame:
    """Daily prices and volume of the S&P 500 index, 1999 to 2018.

    The index holds the 5,031 trading days of the New York Stock Exchange, so weekends and holidays
    are absent and it has no regular frequency.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (5,031 days); columns ``open``, ``high``, ``low``, ``close`` (index points)
        and ``volume`` (shares).

    Examples
    --------
    >>> load_sp500()["close"].tail(2)
    date
    2018-12-28    2485.739990
    2018-12-31    2506.850098
    Name: close, dtype: float64
    """
    return _read_bundled("sp500")


def load_nyc_weather() -> pd.DataFrame:
    """Hourly weather at the airports of New York (EWR, JFK, LGA) in 2013: a panel with gaps.

    The times are UTC and carry no time zone, so that clock changes neither drop nor double a row.

    Left as they are: 27 missing hours at EWR and 24 each at JFK and LGA, the longest five hours on
    26 October and 3 November; NaN in ``temp``, ``dewp`` and ``humid`` (1 row), ``wind_speed`` (4),
    ``wind_dir`` (460), ``pressure`` (2,729) and ``wind_gust`` (20,778: no gust was reported); and
    one wind speed that cannot be true, 1,048 mph at EWR on 12 February, 08:00.

    Returns
    -------
    pandas.DataFrame
        Index ``(station, time)`` (26,115 rows, sorted and unique); columns ``temp``, ``dewp``
        (degrees Fahrenheit), ``humid`` (percent), ``wind_dir`` (degrees), ``wind_speed``,
        ``wind_gust`` (miles per hour), ``precip`` (inches), ``pressure`` (millibars), ``visib``
        (miles).

    Examples
    --------
    >>> weather = load_nyc_weather()
    >>> weather.groupby("station").size().to_dict()
    {'EWR': 8703, 'JFK': 8706, 'LGA': 8706}
    >>> weather.loc[("EWR", "2013-11-03 05:00") : ("EWR", "2013-11-03 07:00"), "temp"].to_list()
    [51.98, 50.0, 51.08]
    """
    frame = _read_bundled("nyc_weather", parse_dates=["time"])
    numbers = frame.columns.difference(["station", "time"])
    return frame.astype(dict.fromkeys(numbers, float)).set_index(["station", "time"])


def load_seattle_weather() -> pd.DataFrame:
    """Daily weather in Seattle, 2012 to 2015, without gaps.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (1,461 days, frequency ``D``); columns ``precipitation`` (millimetres),
        ``temp_max``, ``temp_min`` (degrees Celsius), ``wind`` (metres per second) and ``weather``
        (a word: drizzle, fog, rain, snow or sun).

    Examples
    --------
    >>> load_seattle_weather().iloc[0].to_dict()
    {'precipitation': 0.0, 'temp_max': 12.8, 'temp_min': 5.0, 'wind': 4.7, 'weather': 'drizzle'}
    """
    return _read_bundled("seattle_weather").asfreq("D")


# Files of statsmodels


def load_co2() -> pd.DataFrame:
    """Weekly atmospheric CO2 at Mauna Loa, 1958 to 2001, as statsmodels ships it.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (2,284 Saturdays, frequency ``W-SAT``); column ``co2`` (parts per million),
        of which 59 values are missing.

    Examples
    --------
    >>> load_co2()["co2"].head(2).to_list()
    [316.1, 317.3]
    """
    from statsmodels.datasets import co2

    return co2.load_pandas().data.rename_axis("date")


def load_sunspots() -> pd.DataFrame:
    """Yearly mean sunspot numbers, 1700 to 2008, as statsmodels ships them.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (309 first days of a year, frequency ``YS-JAN``); column ``sunspots``.

    Examples
    --------
    >>> load_sunspots()["sunspots"].tail(2).to_list()
    [7.5, 2.9]
    """
    from statsmodels.datasets import sunspots

    data = sunspots.load_pandas().data
    index = pd.date_range(f"{data['YEAR'][0]:.0f}", periods=len(data), freq="YS", name="date")
    return pd.DataFrame({"sunspots": data["SUNACTIVITY"].to_numpy(float)}, index=index)


# Files that are found on disk or downloaded


def _fetch(name: str, data_home: PathLike, download: bool, verbose: bool) -> Path:
    """Find a file in ``data_home`` or the cache, or download it to the first of them."""
    file = _manifest("downloads.json")[name]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache_folder = os.environ.get("RNNFORECAST_DATA") or Path(base) / "rnnforecast"
    homes = [Path(home).expanduser() for home in (data_home, cache_folder) if home is not None]
    for home in homes:
        for place in file["places"]:
            if (home / place).is_file():
                return _checked(home / place, file)
    target = homes[0] / name
    by_hand = f"put the file there by hand: {file['url']} -> {target}"
    if not download:
        where = " and ".join(map(str, homes))
        message = f"{name} is not in {where}, and download=False: allow the download or {by_hand}"
        raise RNNForecastError(message)
    from sklearn.datasets import fetch_file

    if verbose:
        sys.stderr.write(f"downloading {file['url']} to {target}\n")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        options = {"sha256": file["sha256"], "n_retries": _RETRIES, "delay": _DELAY}
        return fetch_file(file["url"], folder=target.parent, local_filename=name, **options)
    except (OSError, http.client.HTTPException) as error:
        if type(error) is OSError and error.errno is None:  # fetch_file's own, of a wrong digest
            raise DataError(
                f"{file['url']} gave other bytes than expected ({error}); nothing was kept. If a "
                f"proxy rewrites pages, fetch the file elsewhere as {target}"
            ) from error
        raise RNNForecastError(
            f"{name} could not be downloaded ({error or type(error).__name__}): try again or "
            f"{by_hand}"
        ) from error


def _checked(path: Path, file: dict[str, Any]) -> Path:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found not in (file["sha256"], file.get("sha256_with_dos_line_ends")):
        raise DataError(
            f"{path} is not the expected file: its sha256 is {found}, expected {file['sha256']}; "
            f"remove it, and it is downloaded again from {file['url']}"
        )
    return path


def load_ett(
    name: str = "ETTh1",
    *,
    data_home: PathLike = None,
    download: bool = True,
    verbose: bool = False,
) -> pd.DataFrame:
    """Electricity transformer temperature: two transformers in China, July 2016 to June 2018.

    Zhou et al. 2021, Informer, AAAI. The data carry the licence CC BY-ND 4.0.

    Parameters
    ----------
    name : {"ETTh1", "ETTh2", "ETTm1"}, default="ETTh1"
        Transformer 1 or 2, by the hour (``h``, 17,420 rows) or the quarter hour (``m``, 69,680).
    data_home : path-like or None, default=None
        Folder that has the file, or is to get it. By default the folder named by the environment
        variable ``RNNFORECAST_DATA``, else ``~/.cache/rnnforecast``.
    download : bool, default=True
        Whether to download a file that is not there.
    verbose : bool, default=False
        Whether a download is announced on stderr.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (frequency ``h`` or ``15min``); columns ``HUFL``, ``HULL``, ``MUFL``,
        ``MULL``, ``LUFL``, ``LULL`` (loads) and ``OT`` (oil temperature, degrees Celsius).

    Raises
    ------
    DataError
        If the name is unknown or the file on disk is not the published one.
    RNNForecastError
        If the file is not there and cannot be downloaded.

    Examples
    --------
    >>> load_ett("ETTh1").shape  # doctest: +SKIP
    (17420, 7)
    """
    check_choice("load_ett", "name", name, ("ETTh1", "ETTh2", "ETTm1"))
    path = _fetch(f"{name}.csv", data_home, download, verbose)
    return _read_csv(path).asfreq("15min" if name.startswith("ETTm") else "h")


def load_m4(
    group: str = "Hourly",
    *,
    data_home: PathLike = None,
    download: bool = True,
    verbose: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Series of the M4 competition, with the part that was to be forecast.

    Makridakis, Spiliotis and Assimakopoulos 2020, International Journal of Forecasting 36.

    Parameters
    ----------
    group : {"Hourly", "Weekly"}, default="Hourly"
        Hourly: 414 series of 700 or 960 points, horizon 48. Weekly: 359 series, horizon 13.
    data_home, download, verbose
        As for :func:`load_ett`.

    Returns
    -------
    train, test : pandas.DataFrame
        Index ``(series, time)``, series in the order of the file; column ``y``. The files
        carry no dates: time counts steps from 0 within a series, and that of ``test`` goes on where
        ``train`` ends.

    Raises
    ------
    DataError, RNNForecastError
        As :func:`load_ett`.

    Examples
    --------
    >>> train, test = load_m4("Hourly")  # doctest: +SKIP
    >>> len(test) // 48  # doctest: +SKIP
    414
    """
    check_choice("load_m4", "group", group, ("Hourly", "Weekly"))
    paths = (f"{group}-{part}.csv" for part in ("train", "test"))
    before, after = (_read_csv(_fetch(p, data_home, download, verbose), index_col=0) for p in paths)
    if not before.index.equals(after.index):
        raise DataError(f"the M4 {group} files do not name the same series in the same order")
    train = _long(before, 0)
    return train, _long(after, np.bincount(train.index.codes[0]))


def _long(wide: pd.DataFrame, start: Any) -> pd.DataFrame:
    """Stack one series a row, its end padded with empty cells; its time counts from ``start``."""
    series, step = np.nonzero(wide.bfill(axis=1).notna())
    time = step + np.broadcast_to(start, len(wide))[series]
    # levels by hand keep the order of the file, and the index sorted at once
    index = pd.MultiIndex(
        levels=[wide.index.astype(object), pd.RangeIndex(time.max() + 1)],
        codes=[series, time],
        names=["series", "time"],
    )
    return pd.DataFrame({"y": wide.to_numpy(float)[series, step]}, index=index)


def load_weather_benchmark(
    *, data_home: PathLike = None, download: bool = True, verbose: bool = False
) -> pd.DataFrame:
    """Weather in Jena in 2020, every ten minutes: the long-term forecasting benchmark.

    Measured by the Max Planck Institute for Biogeochemistry; in use since Wu et al. 2021,
    Autoformer, NeurIPS. Values are left as they are, so that scores compare with published ones: 81
    cells are -9999 where a sensor failed, the stamp 2020-05-12 06:00 comes twice, and one
    step is 100 minutes long. A forecaster refuses the doubled stamp: take
    ``df[~df.index.duplicated()].replace(-9999, np.nan)`` or number the rows.

    Parameters
    ----------
    data_home, download, verbose
        As for :func:`load_ett`.

    Returns
    -------
    pandas.DataFrame
        Index ``date`` (52,696 stamps); 21 columns named with their units, the last ``OT``. The
        units of three names, garbled in the file, are restored.

    Raises
    ------
    DataError, RNNForecastError
        As :func:`load_ett`.

    Examples
    --------
    >>> load_weather_benchmark().shape  # doctest: +SKIP
    (52696, 21)
    """
    frame = _read_csv(_fetch("weather.csv", data_home, download, verbose))
    names = frame.columns.str.replace("\N{REPLACEMENT CHARACTER}mol", "µmol")
    return frame.set_axis(names.str.replace("\N{REPLACEMENT CHARACTER}", "²"), axis=1)
