"""Bundled files against their manifest and known facts; downloads against a local server."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rnnforecast import datasets
from rnnforecast.exceptions import DataError, RNNForecastError

FOLDER = Path(__file__).resolve().parent.parent / "datasets"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
DOWNLOADS = json.loads((FOLDER / "downloads.json").read_text(encoding="utf-8"))

# Bundled files


@pytest.mark.parametrize("name", MANIFEST)
def test_the_manifest_tells_the_truth(name):
    entry = MANIFEST[name]
    content = (FOLDER / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    if entry["file"].endswith(".gz"):
        assert content[4:8] == bytes(4)  # no modification time: the file can be made again
        content = gzip.decompress(content)
    lines = content.decode().splitlines()
    assert lines[0].split(",") == list(entry["columns"])
    assert len(lines) - 1 == entry["rows"]
    assert all(entry[key] for key in ("description", "source", "licence"))
    assert datasets.describe(name) == entry


def test_every_data_file_is_in_the_manifest():
    listed = {entry["file"] for entry in MANIFEST.values()}
    listed |= {"manifest.json", "downloads.json", "build.py"}
    assert {p.name for p in FOLDER.iterdir() if p.is_file()} == listed
    assert not (FOLDER / "__init__.py").exists()


def test_describe_gives_a_copy_and_names_the_choices():
    datasets.describe("sp500")["columns"].clear()
    assert datasets.describe("sp500")["columns"]
    with pytest.raises(DataError, match=r"name must be one of \['sp500', .*Got 'dax'"):
        datasets.describe("dax")


def test_sp500_has_the_known_crashes_and_closes():
    frame = datasets.load_sp500()
    assert list(frame) == ["open", "high", "low", "close", "volume"]
    assert frame.index.is_monotonic_increasing and frame.index.is_unique
    assert frame.index.day_of_week.max() == 4
    # the largest daily fall of the period, 15 October 2008, was -9.03 %
    change = frame["close"].pct_change()
    assert change.idxmin() == pd.Timestamp("2008-10-15")
    assert change.min() == pytest.approx(-0.0903, abs=5e-5)
    assert frame.loc["2000-03-24", "close"] == pytest.approx(1527.46, abs=0.005)  # dot-com peak
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1)).all()
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1)).all()
    assert not frame.isna().any(axis=None)


def test_nyc_weather_keeps_gaps_and_missing_values():
    frame = datasets.load_nyc_weather()
    assert frame.index.names == ["station", "time"]
    assert frame.index.is_unique and frame.index.is_monotonic_increasing
    assert set(frame.dtypes) == {np.dtype(float)}
    assert frame.isna().sum().to_dict() == {
        "temp": 1, "dewp": 1, "humid": 1, "wind_dir": 460, "wind_speed": 4, "wind_gust": 20778,
        "precip": 0, "pressure": 2729, "visib": 0,
    }  # fmt: skip
    missing = {}
    for station, rows in frame.groupby("station"):
        times = rows.index.get_level_values("time")
        missing[station] = len(pd.date_range(times[0], times[-1], freq="h")) - len(times)
    assert missing == {"EWR": 27, "JFK": 24, "LGA": 24}
    assert frame["wind_speed"].idxmax() == ("EWR", pd.Timestamp("2013-02-12 08:00"))


def test_nyc_weather_is_in_utc_across_the_clock_changes():
    # By local time one hour comes twice in November and one is absent in March: a series in UTC has
    # neither, which daylight saving as the tz database knows it confirms.
    times = datasets.load_nyc_weather().loc["JFK"].index
    local = times.tz_localize("UTC").tz_convert("America/New_York").tz_localize(None)
    assert local[local.duplicated()].tolist() == [pd.Timestamp("2013-11-03 01:00")]
    around = times[(times >= "2013-03-10 05:00") & (times < "2013-03-10 09:00")]
    assert len(around) == 4
    assert pd.Timestamp("2013-03-10 02:00") not in set(local)
    # and summer afternoons are warm in local time
    july = datasets.load_nyc_weather().loc["JFK"].loc["2013-07", "temp"]
    hour = july.index.tz_localize("UTC").tz_convert("America/New_York").hour
    assert july.groupby(hour).mean().idxmax() in range(12, 17)


def test_seattle_weather_is_daily():
    frame = datasets.load_seattle_weather()
    assert frame.index.freqstr == "D" and len(frame) == 4 * 365 + 1
    assert not frame.isna().any(axis=None)
    assert (frame["temp_max"] >= frame["temp_min"]).all()
    counts = frame["weather"].value_counts().to_dict()
    assert counts == {"sun": 714, "fog": 411, "rain": 259, "drizzle": 54, "snow": 23}


def test_statsmodels_sets_are_those_of_statsmodels():
    from statsmodels.datasets import co2, sunspots

    frame = datasets.load_co2()
    np.testing.assert_array_equal(frame["co2"], co2.load_pandas().data["co2"])
    assert frame.index.freqstr == "W-SAT" and frame["co2"].isna().sum() == 59
    source, frame = sunspots.load_pandas().data, datasets.load_sunspots()
    np.testing.assert_array_equal(frame["sunspots"], source["SUNACTIVITY"])
    np.testing.assert_array_equal(frame.index.year, source["YEAR"])
    assert frame.index.freqstr == "YS-JAN"


def test_import_does_not_load_statsmodels_or_open_sockets():
    code = (
        "import sys, rnnforecast.datasets as d; d.load_sp500(); "
        "print([m for m in ('statsmodels', 'torch', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Downloads, from a server on this machine

CONTENT = b"date,OT\n2016-07-01 00:00:00,1.5\n2016-07-01 01:00:00,2.5\n" + b"#" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``cut`` ends the first answers after that many bytes."""

    daemon_threads = True
    content = CONTENT
    cut: list[int] = []
    status: int | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if server.status is not None:
            return self.send_error(server.status)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.cut.pop() if server.cut else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    # no proxy of the surroundings between the test and this machine, no cache of the user
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RNNFORECAST_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_DELAY", 0)
    with Server() as server:
        file = {"url": server.url, "sha256": SHA256, "places": ["data.bin", "folder/data.bin"]}
        monkeypatch.setattr(datasets, "_manifest", lambda name: {"data.bin": file})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(data_home=None, *, download=True, verbose=False):
    return datasets._fetch("data.bin", data_home, download, verbose)


RETRIES = pytest.mark.filterwarnings("ignore:Retry downloading from url")


def test_download_goes_to_the_cache_once(server, tmp_path, capsys):
    path = fetch()
    assert path == tmp_path / "cache" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert fetch() == path and len(server.asked) == 1
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]  # no rest is left
    assert capsys.readouterr() == ("", "")


def test_download_goes_to_the_named_folder_and_is_announced(server, tmp_path, capsys):
    path = fetch(tmp_path / "mine", verbose=True)
    assert path == tmp_path / "mine" / "data.bin"
    assert capsys.readouterr() == ("", f"downloading {server.url} to {path}\n")


@pytest.mark.parametrize("place", ["data.bin", "folder/data.bin"])
def test_a_file_on_disk_is_found_in_either_layout(server, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(CONTENT)
    assert fetch(tmp_path, download=False) == tmp_path / place
    assert server.asked == []


def test_the_named_folder_comes_before_the_cache_and_the_cache_before_the_network(server, tmp_path):
    cached = fetch()
    assert fetch(tmp_path / "empty") == cached
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert fetch(tmp_path) == tmp_path / "data.bin"
    assert len(server.asked) == 1


@RETRIES
def test_a_broken_transfer_is_tried_again(server, tmp_path):
    server.cut = [10_000, 50_000]
    assert fetch(tmp_path / "mine").read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["data.bin"]


def test_wrong_bytes_from_the_server_leave_nothing(server, tmp_path):
    server.content = b"<html>log in first</html>"
    with pytest.raises(DataError, match=rf"other bytes than expected.*{SHA256}"):
        fetch(tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_wrong_file_on_disk_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"data\.bin is not the expected file.*remove it"):
        fetch(tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"edited"
    assert server.asked == []


def test_other_line_ends_are_accepted_on_disk_only_where_they_are_known(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"a\r\n")
    with pytest.raises(DataError, match="not the expected file"):
        fetch(tmp_path)
    file = datasets._manifest("downloads.json")["data.bin"]
    file["sha256_with_dos_line_ends"] = hashlib.sha256(b"a\r\n").hexdigest()
    assert fetch(tmp_path) == tmp_path / "data.bin"


@RETRIES
@pytest.mark.parametrize("status", [404, 503])
def test_a_refusing_server_is_asked_again_and_then_told_with_the_remedy(server, tmp_path, status):
    server.status = status
    with pytest.raises(RNNForecastError, match=rf"{status}.*there by hand: http.*data\.bin"):
        fetch(tmp_path / "mine")
    assert len(server.asked) == 1 + datasets._RETRIES
    assert list((tmp_path / "mine").iterdir()) == []


@RETRIES
def test_offline_says_where_to_put_the_file(server, tmp_path):
    server.shutdown()
    server.server_close()  # nobody listens on the port any more
    with pytest.raises(RNNForecastError) as caught:
        fetch(tmp_path / "mine")
    message = str(caught.value)
    assert not isinstance(caught.value, DataError)
    assert "could not be downloaded" in message and "\n" not in message
    assert f"by hand: {server.url} -> {tmp_path / 'mine' / 'data.bin'}" in message


def test_download_false_never_asks(server, tmp_path):
    with pytest.raises(RNNForecastError, match=r"is not in .*mine and .*cache, and download=False"):
        fetch(tmp_path / "mine", download=False)
    assert server.asked == [] and not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RNNFORECAST_DATA": "/somewhere", "XDG_CACHE_HOME": "/xdg"}, "/somewhere"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/rnnforecast"),
        ({}, str(Path.home() / ".cache" / "rnnforecast")),
    ],
)
def test_the_cache_folder_follows_the_environment(monkeypatch, variables, expected):
    for name in ("RNNFORECAST_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    datasets._manifest("downloads.json")  # is remembered
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(RNNForecastError, match=f"ETTm1.csv is not in {expected}, and"):
        datasets.load_ett("ETTm1", download=False)


# The benchmark loaders, on miniature files of the same form


@pytest.fixture
def mini(monkeypatch, tmp_path):
    """Put a file in place of a published one."""

    def mini(name, text):
        content = text.encode()
        (tmp_path / name).write_bytes(content)
        entry = DOWNLOADS[name] | {"sha256": hashlib.sha256(content).hexdigest()}
        monkeypatch.setitem(datasets._manifest("downloads.json"), name, entry)

    return mini


def test_load_m4_stacks_ragged_rows(mini, tmp_path):
    mini(
        "Hourly-train.csv",
        '"V1","V2","V3","V4"\n"H1","5","6.5",""\n"H10","1","","3"\n"H2","7","",""\n',
    )
    mini("Hourly-test.csv", '"V1","V2","V3"\n"H1","8","9"\n"H10","4","5"\n"H2","0","1"\n')
    before, after = datasets.load_m4("Hourly", data_home=tmp_path)
    expected = {
        ("H1", 0): 5.0, ("H1", 1): 6.5, ("H10", 0): 1.0, ("H10", 1): np.nan, ("H10", 2): 3.0,
        ("H2", 0): 7.0,
    }  # fmt: skip
    assert list(before.index) == list(expected) and before.index.names == ["series", "time"]
    np.testing.assert_array_equal(before["y"], list(expected.values()))
    assert list(after.index) == [
        ("H1", 2), ("H1", 3), ("H10", 3), ("H10", 4), ("H2", 1), ("H2", 2),
    ]  # fmt: skip
    assert after["y"].tolist() == [8, 9, 4, 5, 0, 1]
    assert before.loc[("H10", 2), "y"] == 3.0  # an index that pandas takes for sorted


def test_load_ett_and_the_weather_benchmark_leave_values_alone(mini, tmp_path):
    mini(
        "ETTh1.csv",
        "date,HUFL,OT\n2016-07-01 00:00:00,5.827000141143799,30.5310001373291\n"
        "2016-07-01 01:00:00,5.692999839782715,27.78700065612793\n",
    )
    frame = datasets.load_ett("ETTh1", data_home=tmp_path)
    assert frame.index.freqstr == "h" and frame.iloc[1, 0] == 5.692999839782715
    mini(
        "weather.csv",
        "date,SWDR (W/m\ufffd),max. PAR (\ufffdmol/m\ufffd/s),OT\n"
        "2020-01-01 00:10:00,-9999.0,1,2\n2020-01-01 00:10:00,3,4,5\n",
    )
    frame = datasets.load_weather_benchmark(data_home=tmp_path)
    assert list(frame) == ["SWDR (W/m²)", "max. PAR (µmol/m²/s)", "OT"]
    assert frame.iloc[0, 0] == -9999 and frame.index.duplicated().sum() == 1


def test_m4_files_that_do_not_belong_together(mini, tmp_path):
    mini("Weekly-train.csv", '"V1","V2"\n"W1","5"\n"W2","5"\n')
    mini("Weekly-test.csv", '"V1","V2"\n"W2","5"\n"W1","5"\n')
    with pytest.raises(DataError, match="same series in the same order"):
        datasets.load_m4("Weekly", data_home=tmp_path)


def test_unknown_names_list_the_choices():
    with pytest.raises(DataError, match=r"name must be one of \['ETTh1', 'ETTh2', .*Got 'ETTh9'"):
        datasets.load_ett("ETTh9")
    with pytest.raises(DataError, match=r"group must be one of \['Hourly', 'Weekly'\]. Got 'hour"):
        datasets.load_m4("hourly")


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_address_is_pinned_to_a_commit(name):
    file = DOWNLOADS[name]
    assert file["url"].startswith("https://") and file["url"].endswith(f"/{name}")
    assert all(place.rsplit("/", 1)[-1] == name for place in file["places"])
    assert any(len(p) == 40 and set(p) <= set("0123456789abcdef") for p in file["url"].split("/"))
    assert len(file["sha256"]) == 64
