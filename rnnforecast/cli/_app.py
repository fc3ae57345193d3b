"""Commands and their options."""

from __future__ import annotations

import functools
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnnforecast.cli import _files, _models
from rnnforecast.cli._errors import BadInput
from rnnforecast.cli._frames import Columns, arrange, flatten, load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["main"]

_PATH = click.Path(path_type=Path)
_SECONDS = click.FloatRange(min=0, min_open=True)


class _Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type, length: int | None = None):
        self.kind, self.length = kind, length

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or (self.length and len(numbers) != self.length):
            count = f"{self.length} " if self.length else ""
            self.fail(f"expected {count}numbers with commas between them. Got {value!r}")
        return numbers


class _Models(click.ParamType):
    """Model names with commas between them."""

    name = "models"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(value.split(","))
        for name in names:
            if name not in _models.MODELS:
                self.fail(f"unknown model {name!r}: choose from {', '.join(_models.MODELS)}")
        return tuple(dict.fromkeys(names))


class _Model(click.ParamType):
    """One model name."""

    name = "model"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value not in _models.MODELS:
            self.fail(f"unknown model {value!r}: choose from {', '.join(_models.MODELS)}")
        return value


def _data_options(command: Callable) -> Callable:
    """Add the options that both commands have."""
    options = [
        click.argument("data", type=_PATH),
        click.option("--target", multiple=True, help="Column to forecast; repeat for several."),
        click.option(
            "--horizon", type=click.IntRange(min=1), required=True, help="Steps to forecast."
        ),
        click.option("--time", help="Column of time stamps  [default: the first there is]"),
        click.option("--series-id", help="Column that tells the series of a panel apart."),
        click.option("--known", multiple=True, help="Covariate known in the future; repeatable."),
        click.option("--past", multiple=True, help="Covariate known up to now; repeatable."),
        click.option("--freq", help="pandas offset of the time steps, such as h, D, B or ME."),
        click.option("--lookback", type=click.IntRange(min=1), help="Steps a network looks back."),
        click.option("--max-epochs", type=click.IntRange(min=1), help="Passes over the data."),
        click.option("--time-budget", type=_SECONDS, help="Seconds that auto may take to fit."),
        click.option("--seasonality", type=click.IntRange(min=1), help="Steps in a season."),
        click.option("--order", type=_Numbers(int, 3), help="ARIMA order p,d,q."),
        click.option("--seasonal-order", type=_Numbers(int, 4), help="ARIMA order P,D,Q,s."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option("--quiet", is_flag=True, help="No progress, warnings or closing lines."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rnnforecast", message="%(prog)s %(version)s")
def app() -> None:
    """Forecast time series with recurrent networks and with classical baselines."""


@app.command()
@_data_options
@click.option("--model", type=_Model(), default="deep-lstm", show_default=True,
              help=f"One of {', '.join(_models.MODELS)}.")  # fmt: skip
@click.option("--coverage", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Coverage of the interval  [default: 0.9]")  # fmt: skip
@click.option("--quantiles", type=_Numbers(float), help="Quantiles instead, such as 0.1,0.5,0.9.")
@click.option("--future", type=_PATH, help="File with the coming values of the --known columns.")
@click.option("--out", type=_PATH, help="CSV or Parquet file to write  [default: print CSV]")
@click.option("--plot", type=_PATH, help="Picture to write: png, svg or pdf.")
def forecast(data: Path, horizon: int, quiet: bool, **options: Any) -> None:
    """Fit a model to DATA (CSV or Parquet) and forecast the steps after its end."""
    out, plot, future = options["out"], options["plot"], options["future"]
    levels = _levels(options["quantiles"], options["coverage"])
    _files.check_output(out, _files.TABLES, [data, future])
    _files.check_output(plot, _files.PICTURES)
    if options["known"] and future is None:
        raise BadInput("--known needs --future, a file with the coming values of these columns")
    if future is not None and not options["known"]:
        raise BadInput("--future is only used with --known: name its columns")
    frame, columns = load(data, _columns(options))
    coming = None
    if future is not None:
        coming = arrange(_files.read(future), columns, columns.known, future)
    roles = _roles(columns, horizon, options["freq"])
    model = _models.build(options["model"], roles, _settings(options, quiet))
    model.fit(frame)
    point = model.forecast(coming)
    spread = model.forecast(coming, quantiles=levels)
    table = flatten(_with_bounds(point, spread, options["quantiles"]), columns)
    writers: list[tuple[Path, Callable[[Path], None]]] = []
    if out is not None:
        writers.append((out, lambda path: _files.write_table(table, path)))
    if plot is not None:
        writers.append((plot, lambda path: _draw(model.history(), point, spread, path)))
    _files.write_all(writers)
    if out is None:
        click.echo(table.to_csv(index=False), nl=False)
    for path, _ in writers if not quiet else ():
        click.echo(f"wrote {path}", err=True)


@app.command()
@_data_options
@click.option("--models", type=_Models(), default=",".join(_models.DEFAULT_COMPARISON),
              show_default=True, help="Model names with commas between them.")  # fmt: skip
@click.option("--origins", type=click.IntRange(min=1), default=3, show_default=True,
              help="How many forecast origins, counted back from the end.")  # fmt: skip
@click.option("--step", type=click.IntRange(min=1), help="Steps between origins.")
@click.option("--out", type=_PATH, help="CSV or Parquet file to write the table to.")
def compare(data: Path, horizon: int, quiet: bool, **options: Any) -> None:
    """Compare models on DATA (CSV or Parquet) by rolling origin, best first."""
    import rnnforecast

    out = options["out"]
    _files.check_output(out, _files.TABLES, [data])
    frame, columns = load(data, _columns(options))
    roles = _roles(columns, horizon, options["freq"])
    models = _models.build_all(options["models"], roles, _settings(options, quiet=True))
    board = rnnforecast.compare(
        models,
        frame,
        horizon=horizon,
        n_origins=options["origins"],
        step=options["step"],
        verbose=_verbose(quiet),
    )
    table = board.reset_index()
    if out is not None:
        _files.write_all([(out, lambda path: _files.write_table(table, path))])
    click.echo(table.to_string(index=False, float_format="{:.4g}".format))
    if out is not None and not quiet:
        click.echo(f"wrote {out}", err=True)


@app.command()
def versions() -> None:
    """Tell versions, hardware and the kernels in use: what a report of a problem should hold."""
    import rnnforecast

    rnnforecast.show_versions()


def _levels(quantiles: Sequence[float] | None, coverage: float | None) -> list[float]:
    if quantiles is None:
        coverage = 0.9 if coverage is None else coverage
        # rounded: 0.05, not 0.04999999999999999
        return [round((1 - coverage) / 2, 12), round((1 + coverage) / 2, 12)]
    if coverage is not None:
        raise BadInput("--quantiles and --coverage say the same thing twice: give one of them")
    for level in quantiles:
        if not 0 < level < 1 or math.isnan(level):
            raise BadInput(f"--quantiles must lie between 0 and 1. Got {level:g}")
    return sorted(set(quantiles))


def _columns(options: dict[str, Any]) -> Columns:
    columns = Columns(
        options["target"], options["known"], options["past"], options["time"], options["series_id"]
    )
    named = columns.named()
    for name in named:
        if named.count(name) > 1:
            raise BadInput(f"column {name!r} is named twice: a column has one part")
    return columns


def _roles(columns: Columns, horizon: int, freq: str | None) -> dict[str, Any]:
    return {
        "horizon": horizon,
        "target": columns.target[0] if len(columns.target) == 1 else list(columns.target),
        "known": list(columns.known) or None,
        "freq": freq,
    }


def _settings(options: dict[str, Any], quiet: bool) -> dict[str, Any]:
    named = ("lookback", "max_epochs", "time_budget", "seasonality", "order", "seasonal_order")
    return {
        **{key: options[key] for key in named},
        "random_state": options["seed"],
        "verbose": _verbose(quiet),
    }


def _verbose(quiet: bool) -> int:
    # a bar is for somebody who watches: none in a log file
    return int(not quiet and sys.stderr.isatty())


def _with_bounds(point: pd.DataFrame, spread: pd.DataFrame, quantiles: Any) -> pd.DataFrame:
    """Put the bounds beside the forecast: temp, temp_lower, temp_upper, or temp, temp_q0.1, ..."""
    table = {}
    for name in point.columns:
        table[name] = point[name]
        ends = ["lower", "upper"] if quantiles is None else [f"q{p:g}" for p in spread[name]]
        for end, level in zip(ends, spread[name], strict=True):
            table[f"{name}_{end}"] = spread[name][level]
    import pandas as pd

    return pd.DataFrame(table)


def _draw(history: pd.DataFrame, point: pd.DataFrame, spread: pd.DataFrame, path: Path) -> None:
    from rnnforecast.plotting import forecast_figure

    forecast_figure(history, point, intervals=spread).savefig(path, dpi=120)


@contextmanager
def _quiet_warnings() -> Iterator[list[str]]:
    """Collect the text of warnings, so that they come after the result and as one line each."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield lines
    lines += dict.fromkeys(" ".join(str(one.message).split()) for one in caught)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and end the process.

    Parameters
    ----------
    args : sequence of str, optional
        Arguments; those of the process if None.

    Raises
    ------
    SystemExit
        Always: 0 after success, 2 after bad input (with one line on stderr), 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    message, status = None, 0
    with _quiet_warnings() as warned:
        try:
            status = app.main(arguments, prog_name="rnnforecast", standalone_mode=False) or 0
        except click.Abort:
            message, status = "interrupted", 130
        except BrokenPipeError:  # the reader of our output has seen enough
            _forget_stdout()
            status = 1
        except click.ClickException as error:
            if isinstance(error, click.exceptions.NoArgsIsHelpError):
                click.echo(error.format_message(), err=True)
                raise SystemExit(2) from None
            message, status = error.format_message(), 2
        except (_library_errors(), ValueError, OSError) as error:
            message, status = str(error) or type(error).__name__, 2
    if message is not None:
        click.echo(f"rnnforecast: error: {' '.join(message.split())}", err=True)
    elif "--quiet" not in arguments:
        for line in warned:
            click.echo(f"rnnforecast: warning: {line}", err=True)
    raise SystemExit(status)


def _forget_stdout() -> None:
    """Point stdout nowhere: Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _library_errors() -> type[Exception]:
    from rnnforecast.exceptions import RNNForecastError

    return RNNForecastError
