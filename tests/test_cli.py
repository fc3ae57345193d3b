"""The command line: results against the library, and one clear line for every kind of bad input."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from rnnforecast.cli import main
from rnnforecast.cli._files import write_all
from rnnforecast.cli._models import MODELS

N = 120


@pytest.fixture
def daily(tmp_path):
    """A file with a weekly season, a covariate and a word."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=N, freq="D")
    frame = pd.DataFrame(
        {
            "place": "here",
            "day": days.strftime("%Y-%m-%d"),
            "temp": 10 + np.tile([0, 1, 2, 3, 4, 9, 8], N)[:N] + rng.normal(0, 0.1, N).round(3),
            "sun": rng.random(N).round(3),
            "sky": "sun",
        }
    )
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def command(capsys):
    """Run the command; give exit status, stdout and stderr."""

    def command(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return command


@pytest.fixture
def fails(command, tmp_path):
    """Run a command that must fail with one line and leave no file behind."""

    def fails(*args):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = command(*args)
        assert status == 2
        assert out == ""
        assert err.startswith("rnnforecast: error: ") and err.count("\n") == 1 and err[-1] == "\n"
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return fails


# forecast


def test_naive_forecasts_are_what_their_names_say(command, daily, tmp_path):
    history = pd.read_csv(daily)["temp"].to_numpy()
    expected = {
        "naive": np.repeat(history[-1], 9),
        "seasonal-naive": np.r_[history[-7:], history[-7:-5]],
        "drift": history[-1] + np.arange(1, 10) * (history[-1] - history[0]) / (N - 1),
    }
    for model, values in expected.items():
        out = tmp_path / f"{model}.csv"
        season = ["--seasonality", 7] if model == "seasonal-naive" else []
        args = ["--target", "temp", "--horizon", 9, "--model", model, "--out", out, *season]
        assert command("forecast", daily, *args) == (0, "", f"wrote {out}\n")
        table = pd.read_csv(out)
        assert list(table) == ["day", "temp", "temp_lower", "temp_upper"]
        np.testing.assert_allclose(table["temp"], values, rtol=1e-6)
        days = pd.date_range("2024-04-30", periods=9, freq="D").strftime("%Y-%m-%d")
        assert table["day"].tolist() == days.tolist()
        assert (table["temp_lower"] <= table["temp_upper"]).all()


def test_result_is_that_of_the_library(command, daily):
    from rnnforecast import DeepLSTMForecaster

    args = ["--lookback", 14, "--max-epochs", 2, "--seed", 3, "--horizon", 7, "--past", "sun"]
    levels = [0.1, 0.5, 0.9]
    status, out, err = command(
        "forecast", daily, "--target", "temp", *args, "--quantiles", "0.5,0.1,0.9", "--quiet"
    )
    assert (status, err) == (0, "")
    table = pd.read_csv(pd.io.common.StringIO(out), index_col="day", parse_dates=["day"])
    frame = pd.read_csv(daily, index_col="day", parse_dates=["day"])[["temp", "sun"]]
    model = DeepLSTMForecaster(
        horizon=7, target="temp", lookback=14, max_epochs=2, random_state=3
    ).fit(frame)
    pd.testing.assert_series_equal(
        table["temp"], model.forecast()["temp"], check_freq=False, check_names=False
    )
    spread = model.forecast(quantiles=levels)["temp"]
    np.testing.assert_allclose(table[["temp_q0.1", "temp_q0.5", "temp_q0.9"]], spread, rtol=1e-6)


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"auto-arima"}))
def test_every_model_name_runs(command, daily, model):
    fast = ["--max-epochs", 1, "--lookback", 7] if "-" in model and "naive" not in model else []
    fast = ["--time-budget", 1] if model == "auto" else fast
    status, out, _ = command(
        "forecast", daily, "--target", "temp", "--horizon", 3, "--model", model, "--quiet", *fast
    )
    assert status == 0
    values = pd.read_csv(pd.io.common.StringIO(out))
    assert len(values) == 3
    assert values["temp"].between(0, 30).all()  # degrees seen: 10 to 19


def test_auto_arima_runs_where_its_extra_is_installed(command, daily):
    pytest.importorskip("statsforecast")
    args = ["--target", "temp", "--horizon", 2, "--model", "auto-arima", "--quiet"]
    status, out, _ = command("forecast", daily, *args)
    assert status == 0 and out.count("\n") == 3


def test_rows_in_any_order_give_the_same_forecast(command, daily, tmp_path):
    shuffled = tmp_path / "shuffled.csv"
    pd.read_csv(daily).sample(frac=1, random_state=0).to_csv(shuffled, index=False)
    args = ["--target", "temp", "--horizon", 5, "--model", "ets", "--quiet"]
    assert command("forecast", daily, *args) == command("forecast", shuffled, *args)


def test_panel_in_parquet_and_out(command, tmp_path):
    pytest.importorskip("pyarrow")
    hours = pd.date_range("2024-01-01", periods=30, freq="h")
    frame = pd.concat(
        [pd.DataFrame({"shop": s, "when": hours, "sold": k}) for k, s in enumerate("ab")]
    )
    data, out = tmp_path / "data.parquet", tmp_path / "out.parquet"
    frame.assign(sold=frame["sold"].astype(float)).to_parquet(data, index=False)
    args = ["--target", "sold", "--series-id", "shop", "--horizon", 2, "--model", "naive"]
    status, _, err = command("forecast", data, *args, "--out", out, "--coverage", 0.5)
    assert status == 0, err
    table = pd.read_parquet(out)
    assert list(table) == ["shop", "when", "sold", "sold_lower", "sold_upper"]
    assert table["shop"].tolist() == ["a", "a", "b", "b"]
    assert table["sold"].tolist() == [0, 0, 1, 1]
    assert table["when"].tolist() == 2 * [hours[-1] + k * hours.freq for k in (1, 2)]


def test_rows_without_time_count_steps(command, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("y\n" + "\n".join(str(k % 5) for k in range(40)) + "\n")
    status, out, err = command("forecast", data, "--horizon", 2, "--model", "naive", "--quiet")
    assert (status, err) == (0, "")
    lines = out.splitlines()  # the only numeric column is the target
    assert lines[0] == "step,y,y_lower,y_upper"
    assert [line.split(",")[:2] for line in lines[1:]] == [["40", "4.0"], ["41", "4.0"]]


def test_known_covariates_come_from_the_future_file(command, fails, daily, tmp_path):
    frame = pd.read_csv(daily)
    frame["temp"] = 3 * frame["sun"] + 1  # an exact line: ARIMA with X must find it
    data, future = tmp_path / "line.csv", tmp_path / "future.csv"
    frame.iloc[:-5].to_csv(data, index=False)
    frame.iloc[-5:][["day", "sun"]].to_csv(future, index=False)
    args = ["--target", "temp", "--horizon", 5, "--model", "arima", "--order", "0,0,0", "--quiet"]
    status, out, err = command("forecast", data, *args, "--known", "sun", "--future", future)
    assert status == 0, err
    table = pd.read_csv(pd.io.common.StringIO(out))
    np.testing.assert_allclose(table["temp"], frame["temp"].iloc[-5:], atol=1e-3)
    assert "--known needs --future" in fails("forecast", data, *args, "--known", "sun")
    assert "only used with --known" in fails("forecast", data, *args, "--future", future)
    frame.iloc[-5:][["day"]].to_csv(future, index=False)
    args = [*args, "--known", "sun", "--future", future]
    assert "future.csv has no column 'sun'" in fails("forecast", data, *args)


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_plot_is_written_beside_the_table(command, daily, tmp_path, suffix, start):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "f.csv", tmp_path / f"f.{suffix}"
    args = ["--target", "temp", "--horizon", 5, "--model", "naive", "--out", out, "--plot", plot]
    status, _, err = command("forecast", daily, *args)
    assert (status, err) == (0, f"wrote {out}\nwrote {plot}\n")
    assert plot.read_bytes().startswith(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["data.csv", "f.csv", plot.name])


# compare


def test_compare_ranks_the_models(command, daily, tmp_path):
    out = tmp_path / "board.csv"
    args = ["--target", "temp", "--horizon", 7, "--models", "naive,seasonal-naive,ets"]
    status, printed, err = command(
        "compare", daily, *args, "--seasonality", 7, "--origins", 2, "--out", out
    )
    assert status == 0, err
    table = pd.read_csv(out)
    assert len(table) == 3 and len(printed.splitlines()) == 4
    # a season with little noise: the naive forecast comes last
    assert "naive" in set(table.iloc[-1].astype(str))
    for name in ("naive", "seasonal-naive", "ets"):
        assert name in printed


def test_a_panel_is_compared_and_forecast_with_known_covariates(command, tmp_path):
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    parts = [pd.DataFrame({"shop": s, "when": days, "promo": rng.random(40)}) for s in "ba"]
    frame = pd.concat(parts).assign(sold=lambda f: 2 * f["promo"] + (f["shop"] == "b"))
    data, future = tmp_path / "data.csv", tmp_path / "future.csv"
    late = frame["when"] >= days[38]
    frame[~late].sample(frac=1, random_state=0).to_csv(data, index=False)
    frame[late].drop(columns="sold").to_csv(future, index=False)
    args = ["--series-id", "shop", "--target", "sold", "--known", "promo", "--horizon", 2]
    args += ["--order", "0,0,0", "--quiet"]
    status, out, err = command("forecast", data, *args, "--model", "arima", "--future", future)
    assert (status, err) == (0, "")
    table = pd.read_csv(pd.io.common.StringIO(out))
    expected = frame[late].sort_values(["shop", "when"])
    assert table["shop"].tolist() == expected["shop"].tolist() == ["a", "a", "b", "b"]
    np.testing.assert_allclose(table["sold"], expected["sold"], atol=1e-3)
    status, out, err = command("compare", data, *args, "--models", "arima,naive", "--origins", 2)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["model", "arima", "naive"]


def test_compare_counts_the_series_that_are_left_out(command, tmp_path):
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    rows = [
        pd.DataFrame({"shop": s, "when": days[:n], "sold": n}) for s, n in (("a", 40), ("b", 30))
    ]
    data = tmp_path / "data.csv"
    args = ["--series-id", "shop", "--target", "sold", "--horizon", 2, "--models", "naive"]
    pd.concat(rows).to_csv(data, index=False)
    err = command("compare", data, *args, "--origins", 2)[2]
    assert "left out: 1 of 2 series at an origin" in err
    assert "left out: up to 1 of 2 series" in command("compare", data, *args, "--origins", 7)[2]
    assert command("compare", data, *args, "--origins", 2, "--quiet")[2] == ""
    pd.concat(rows[:1]).to_csv(data, index=False)
    assert "left out" not in command("compare", data, *args, "--origins", 2)[2]


def test_the_package_runs_as_a_module():
    found = subprocess.run(
        [sys.executable, "-m", "rnnforecast", "--version"], capture_output=True, text=True
    )
    assert found.returncode == 0 and found.stdout.startswith("rnnforecast ")


# bad input

FORECAST = ("--target", "temp", "--horizon", 5, "--model", "naive")


def test_missing_file(fails, tmp_path):
    assert "there is no file" in fails("forecast", tmp_path / "no.csv", *FORECAST)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.csv", b"", "empty.csv cannot be read: No columns"),
        ("header.csv", b"day,temp\n", "holds no rows"),
        ("ragged.csv", b"day,temp\n1,2\n1,2,3,4\n", "cannot be read"),
        ("binary.csv", b"\xff\xfe\x00day,temp\n", "cannot be read"),
        ("fake.parquet", b"PAR1 no", "cannot be read"),
        ("data.xlsx", b"PK", "expected a file name ending in .csv or .csv.gz or .parquet"),
        ("words.csv", b"day,temp\n2024-01-01,warm\n", "must hold numbers: Unable to parse"),
        ("twice.csv", b"day,temp\n2024-01-01,1\n2024-01-01,2\n", "appears more than once"),
        ("short.csv", b"day,temp\n2024-01-01,1\n", "frequency of 1 sample cannot be inferred"),
        ("infinite.csv", b"day,temp\n2024-01-01,1\n2024-01-02,inf\n2024-01-03,inf\n", "infinity"),
        ("missing.csv", b"day,temp\n2024-01-01,\n2024-01-02,\n2024-01-03,\n", "no observed value"),
    ],
)  # fmt: skip
def test_unusable_files(fails, tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    assert expected in fails("forecast", path, *FORECAST, "--out", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--target", "tmp"], "no column 'tmp' for --target; its columns: place, day, temp, sun"),
        (["--target", "temp", "--known", "rain", "--future", "x.csv"], "'rain' for --known"),
        (["--target", "temp", "--past", "rain"], "'rain' for --past"),
        (["--target", "temp", "--time", "hour"], "'hour' for --time"),
        (["--target", "temp", "--time", "sky"], "'sky' cannot be read as time stamps"),
        (["--target", "temp", "--series-id", "shop"], "'shop' for --series-id"),
        (["--target", "sky"], "'sky' must hold numbers: Unable to parse string"),
        (["--target", "temp", "--past", "temp"], "'temp' is named twice"),
        ([], "has the numeric columns temp, sun: name one with --target"),
        (["--target", "temp", "--model", "lstm"], "'lstm' is not one of 'deep-rnn'"),
        (["--target", "temp", "--lookback", "5"], "--lookback does not apply to naive"),
        (["--target", "temp", "--seasonality", "7"], "--seasonality does not apply to naive"),
        (["--target", "temp", "--coverage", "1"], "--coverage"),
        (["--target", "temp", "--quantiles", "0.1,1.5"], "1.5 is not in the range 0<x<1"),
        (["--target", "temp", "--quantiles", "a,b"], "--quantiles': 'a' is not a valid float"),
        (["--target", "temp", "--quantiles", "0.5", "--coverage", "0.8"], "give one of them"),
        (["--target", "temp", "--freq", "fortnight"], "fortnight"),
        (["--target", "temp", "--order", "1,1"], "expected 3 numbers"),
        (["--target", "temp", "--colour"], "No such option"),
    ],
)  # fmt: skip
def test_unusable_options(fails, daily, args, expected):
    default = [] if "--model" in args else ["--model", "naive"]
    assert expected in fails("forecast", daily, "--horizon", 5, *default, *args)


@pytest.mark.parametrize("horizon", ["0", "-3", "2.5", "soon"])
def test_bad_horizon(fails, daily, horizon):
    assert "--horizon" in fails("forecast", daily, "--target", "temp", "--horizon", horizon)


def test_no_horizon(fails, daily):
    assert "Missing option '--horizon'" in fails("forecast", daily, "--target", "temp")


@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [
        ("--out", "no/folder/out.csv", "there is no folder"),
        ("--out", "out.xlsx", "ending in .csv or .csv.gz or .parquet or .pq"),
        ("--out", "out", "ending in .csv or"),
        ("--out", "folder.csv", "is a directory"),
        ("--plot", "plot.csv", "ending in .pdf or .png or .svg"),
        ("--plot", "no/plot.png", "there is no folder"),
    ],
)
def test_unwritable_output_is_refused_before_anything_is_read(
    fails, tmp_path, option, name, expected
):
    (tmp_path / "folder.csv").mkdir()
    # the data file is missing too: were it read first, that would be the error
    args = ["forecast", tmp_path / "no.csv", *FORECAST, option, tmp_path / name]
    assert expected in fails(*args)


def test_too_few_rows_for_a_network(fails, daily, tmp_path):
    short = tmp_path / "short.csv"
    pd.read_csv(daily).iloc[:9].to_csv(short, index=False)
    args = ["--target", "temp", "--horizon", 24, "--lookback", 24, "--out", tmp_path / "out.csv"]
    assert "9 rows" in fails("forecast", short, *args)


def test_compare_refuses_a_setting_that_fits_none_of_its_models(fails, daily):
    args = ["--target", "temp", "--horizon", 5, "--models", "naive,drift", "--order", "1,0,0"]
    assert "--order does not apply to naive, drift" in fails("compare", daily, *args)
    args = ["--target", "temp", "--horizon", 5, "--models", "naive,prophet"]
    assert "'prophet' is not one of 'deep-rnn'" in fails("compare", daily, *args)


def test_files_are_written_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("old")

    def broken(path):
        path.write_text("half")
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError):
        write_all([(first, lambda path: path.write_text("new")), (second, broken)])
    assert first.read_text() == "old"
    assert list(tmp_path.iterdir()) == [first]


def test_interrupt_leaves_no_file_and_says_so(command, daily, tmp_path, monkeypatch):
    from rnnforecast import NaiveForecaster

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(NaiveForecaster, "fit", interrupted)
    status, _, err = command("forecast", daily, *FORECAST, "--out", tmp_path / "out.csv")
    # click first ends the line on which the terminal shows ^C
    assert (status, err) == (130, "\nrnnforecast: error: interrupted\n")
    assert not (tmp_path / "out.csv").exists()


def test_warnings_come_as_one_line_after_the_result(command, daily, monkeypatch):
    import warnings

    from rnnforecast import NaiveForecaster

    fit = NaiveForecaster.fit

    def warning(self, X, y=None):
        warnings.warn("did not\n   converge", UserWarning, stacklevel=1)
        return fit(self, X, y)

    monkeypatch.setattr(NaiveForecaster, "fit", warning)
    status, _, err = command("forecast", daily, *FORECAST)
    assert (status, err) == (0, "rnnforecast: warning: did not converge\n")
    assert command("forecast", daily, *FORECAST, "--quiet")[2] == ""


# the process


def test_help_is_quick_and_version_is_told():
    code = (
        "import sys; from rnnforecast.cli import main\n"
        "try: main(['forecast', '--help'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print([m for m in ('torch', 'pandas', 'numpy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Usage: rnnforecast forecast")
    assert lines[-2:] == ["0", "[]"]


def test_errors_of_a_real_process_have_no_traceback(tmp_path):
    code = "from rnnforecast.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "forecast", "no.csv", "--horizon", "3"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "rnnforecast: error: there is no file no.csv\n"


def test_no_command_shows_the_help(command):
    status, _, err = command()
    assert status == 2 and err.startswith("Usage: rnnforecast")


def stamped(path, stamps):
    rows = [f"{stamp},{i % 7}.5" for i, stamp in enumerate(stamps)]
    path.write_text("\n".join(["day,temp", *rows]) + "\n", encoding="utf-8")
    return path


def test_stamps_that_cannot_all_be_read_are_not_dropped(fails, tmp_path):
    days = pd.date_range("2024-01-01", periods=40)
    path = stamped(tmp_path / "a.csv", days.strftime("%d/%m/%Y"))
    assert "column 'day' cannot be read" in fails("forecast", path, "--horizon", 2)
    path = stamped(tmp_path / "b.csv", ["", *days[1:].strftime("%Y-%m-%d")])
    assert "column 'day' (time) has missing" in fails("forecast", path, "--horizon", 2)


def test_hours_around_a_clock_change(command, tmp_path):
    hours = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    path = stamped(tmp_path / "a.csv", hours.astype(str))
    status, out, err = command("forecast", path, "--horizon", 2, "--model", "naive")
    assert (status, err) == (0, "")
    stamps = pd.to_datetime([line.split(",")[0] for line in out.splitlines()[1:]])
    assert list(stamps) == list(hours[-1] + pd.to_timedelta([1, 2], unit="h"))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_read(command, daily, tmp_path, mark):
    path = tmp_path / "other.csv"
    path.write_text(daily.read_text().replace(",", mark))
    args = ["--target", "temp", "--horizon", 2, "--model", "naive"]
    assert command("forecast", path, *args) == command("forecast", daily, *args)


def test_numbers_that_are_not_read_as_such_are_refused(fails, daily, tmp_path):
    path = tmp_path / "comma.csv"  # decimal commas
    path.write_text(daily.read_text().replace(",", ";").replace(".", ","))
    assert "column 'temp' must hold numbers: Unable to parse string" in fails(
        "forecast", path, *FORECAST
    )


def test_stamps_are_no_target(fails, tmp_path):
    pytest.importorskip("pyarrow")
    days = pd.date_range("2024-01-01", periods=40)
    path = tmp_path / "data.parquet"
    pd.DataFrame({"day": days, "due": days, "temp": 1.0}).to_parquet(path)
    args = ["--time", "day", "--target", "due", "--horizon", 5, "--model", "naive"]
    said = fails("forecast", path, *args)
    assert re.search(r"column 'due' has dtype datetime64\[\w+\], expected numbers", said)


def test_a_single_column_is_not_cut_at_a_letter(command, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("temperature\n" + "\n".join(f"{k % 5}.5" for k in range(40)) + "\n")
    status, out, _ = command("forecast", path, "--horizon", 1, "--model", "naive")
    assert status == 0 and out.splitlines()[1].startswith("40,4.5,")


def test_no_header_and_more_values_than_names_are_told(fails, daily, tmp_path):
    path = tmp_path / "other.csv"
    stamped(path, pd.date_range("2024-01-01", periods=40).strftime("%Y-%m-%d"))
    path.write_text(path.read_text().partition("\n")[2])
    assert "first line must name the columns" in fails("forecast", path, "--horizon", 2)
    head, _, rows = daily.read_text().partition("\n")
    path.write_text(head + "\n" + rows.replace("\n", ",\n"))  # pandas would shift the values
    assert "more values than its first line has names" in fails("forecast", path, *FORECAST)


@pytest.mark.parametrize("name", ["forecast", "compare"])
def test_the_data_are_not_written_over(fails, daily, name):
    before = daily.read_bytes()
    args = (name, daily, "--target", "temp", "--horizon", 2, "--out", daily)
    assert "would be written over" in fails(*args)
    assert daily.read_bytes() == before
