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

from rnnforecast import _download, datasets
from rnnforecast._download import RemoteFile, cache_dir, fetch
from rnnforecast.exceptions import DataError, RNNForecastError

FOLDER = Path(__file__).resolve().parent.parent / "datasets"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))

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
    listed = {entry["file"] for entry in MANIFEST.values()} | {"manifest.json", "build.py"}
    assert {p.name for p in FOLDER.iterdir() if p.is_file()} == listed
    assert not (FOLDER / "__init__.py").exists()


def test_describe_gives_a_copy_and_names_the_choices():
    datasets.describe("sp500")["columns"].clear()
    assert datasets.describe("sp500")["columns"]
    with pytest.raises(DataError, match=r"no data set 'dax': choose one of 'sp500'"):
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

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``cut`` ends each answer after that many bytes."""

    daemon_threads = True
    content = CONTENT
    cut: int | None = None
    ranges = True
    status: int | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def file(self) -> RemoteFile:
        host, port = self.server_address[:2]
        return RemoteFile("folder/data.bin", f"http://{host}:{port}/data.bin", SHA256)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status is not None:
            return self.send_error(server.status)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            size = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    # no proxy of the surroundings between the test and this machine, no cache of the user
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RNNFORECAST_DATA", str(tmp_path / "cache"))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download_goes_to_the_cache_once(server, tmp_path):
    path = fetch(server.file)
    assert path == tmp_path / "cache" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(server.file) == path and len(server.asked) == 1
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]  # no rest is left


def test_download_goes_to_the_named_folder_and_shows_a_bar(server, tmp_path, capsys):
    path = fetch(server.file, tmp_path / "mine", verbose=True)
    assert path == tmp_path / "mine" / "data.bin"
    printed = capsys.readouterr()
    assert "data.bin" in printed.err and "300k/300k" in printed.err and printed.out == ""


@pytest.mark.parametrize("place", ["data.bin", "folder/data.bin"])
def test_a_file_on_disk_is_found_in_either_layout(server, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(CONTENT)
    assert fetch(server.file, tmp_path, download=False) == tmp_path / place
    assert server.asked == []


def test_the_named_folder_comes_before_the_cache_and_the_cache_before_the_network(server, tmp_path):
    cached = fetch(server.file)
    assert fetch(server.file, tmp_path / "empty") == cached
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert fetch(server.file, tmp_path) == tmp_path / "data.bin"
    assert len(server.asked) == 1


def test_a_broken_transfer_is_resumed_where_it_stopped(server, tmp_path):
    server.cut = 100_000
    path = fetch(server.file)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_the_rest_of_an_earlier_run_is_resumed(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:299_000])
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=299000-"]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("size", [1_000, 300_000, 400_000])
def test_a_rest_that_is_not_ours_is_thrown_away(server, tmp_path, size):
    (tmp_path / "data.bin.part").write_bytes(bytes(size))
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={size}-", None]


def test_a_complete_rest_needs_no_second_transfer(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_wrong_bytes_from_the_server_leave_nothing(server, tmp_path):
    server.content = b"<html>log in first</html>"
    with pytest.raises(DataError, match=rf"other bytes than expected.*{SHA256}"):
        fetch(server.file, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_wrong_file_on_disk_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"data\.bin is not the expected file.*remove it"):
        fetch(server.file, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"edited"
    assert server.asked == []


def test_other_line_ends_are_accepted_on_disk_only_where_they_are_known(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"a\r\n")
    digest = hashlib.sha256(b"a\r\n").hexdigest()
    file = RemoteFile("data.bin", server.file.url, SHA256, also=(digest,))
    assert fetch(file, tmp_path) == tmp_path / "data.bin"


def test_a_missing_page_fails_at_once_and_says_where_to_put_the_file(server, tmp_path):
    server.status = 404
    with pytest.raises(RNNForecastError, match=r"404.*put the file there by hand: http.*data\.bin"):
        fetch(server.file, tmp_path)
    assert len(server.asked) == 1


def test_a_struggling_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(RNNForecastError, match="503"):
        fetch(server.file, tmp_path)
    assert len(server.asked) == _download._ATTEMPTS


def test_offline_says_where_to_put_the_file(server, tmp_path):
    file = server.file
    server.shutdown()
    server.server_close()  # nobody listens on the port any more
    with pytest.raises(RNNForecastError) as caught:
        fetch(file, tmp_path / "mine")
    message = str(caught.value)
    assert "could not be downloaded" in message and "\n" not in message
    assert f"by hand: {file.url} -> {tmp_path / 'mine' / 'data.bin'}" in message


def test_download_false_never_asks(server, tmp_path):
    with pytest.raises(RNNForecastError, match=r"is not in .*mine and .*cache, and download=False"):
        fetch(server.file, tmp_path / "mine", download=False)
    assert server.asked == [] and not (tmp_path / "mine").exists()


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("RNNFORECAST_DATA", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("RNNFORECAST_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/rnnforecast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "rnnforecast"


# The benchmark loaders, on miniature files of the same form


def _mini(path: str, text: str, folder: Path) -> RemoteFile:
    content = text.encode()
    (folder / path).write_bytes(content)
    return RemoteFile(path, "http://127.0.0.1:9/", hashlib.sha256(content).hexdigest())


def test_load_m4_stacks_ragged_rows(monkeypatch, tmp_path):
    train = _mini(
        "X-train.csv",
        '"V1","V2","V3","V4"\n"H1","5","6.5",""\n"H10","1","","3"\n"H2","7","",""\n',
        tmp_path,
    )
    test = _mini(
        "X-test.csv", '"V1","V2","V3"\n"H1","8","9"\n"H10","4","5"\n"H2","0","1"\n', tmp_path
    )
    monkeypatch.setattr(datasets, "_M4_FILES", {"X": (train, test)})
    before, after = datasets.load_m4("X", data_home=tmp_path)
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


def test_load_ett_and_the_weather_benchmark_leave_values_alone(monkeypatch, tmp_path):
    ett = _mini(
        "ETTh1.csv",
        "date,HUFL,OT\n2016-07-01 00:00:00,5.827000141143799,30.5310001373291\n"
        "2016-07-01 01:00:00,5.692999839782715,27.78700065612793\n",
        tmp_path,
    )
    monkeypatch.setitem(datasets._ETT_FILES, "ETTh1", ett)
    frame = datasets.load_ett("ETTh1", data_home=tmp_path)
    assert frame.index.freqstr == "h" and frame.iloc[1, 0] == 5.692999839782715
    weather = _mini(
        "weather.csv",
        "date,SWDR (W/m\ufffd),max. PAR (\ufffdmol/m\ufffd/s),OT\n"
        "2020-01-01 00:10:00,-9999.0,1,2\n2020-01-01 00:10:00,3,4,5\n",
        tmp_path,
    )
    monkeypatch.setattr(datasets, "_WEATHER_FILE", weather)
    frame = datasets.load_weather_benchmark(data_home=tmp_path)
    assert list(frame) == ["SWDR (W/m²)", "max. PAR (µmol/m²/s)", "OT"]
    assert frame.iloc[0, 0] == -9999 and frame.index.duplicated().sum() == 1


def test_unknown_names_list_the_choices():
    with pytest.raises(DataError, match=r"no ETT file 'ETTh9': choose one of 'ETTh1', 'ETTh2'"):
        datasets.load_ett("ETTh9")
    with pytest.raises(DataError, match=r"no M4 group 'hourly': choose one of 'Hourly', 'Weekly'"):
        datasets.load_m4("hourly")


def test_every_address_is_pinned_to_a_commit():
    remotes = [*datasets._ETT_FILES.values(), datasets._WEATHER_FILE]
    remotes += [file for pair in datasets._M4_FILES.values() for file in pair]
    for file in remotes:
        assert file.url.startswith("https://") and file.url.endswith(file.name)
        assert any(len(p) == 40 and set(p) <= set("0123456789abcdef") for p in file.url.split("/"))
        assert len(file.sha256) == 64
