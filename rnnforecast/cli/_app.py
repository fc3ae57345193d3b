"""Commands and their options."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from rnnforecast.cli import _models

__all__ = ["main"]


class _List(click.ParamType):
    """Values of another type with commas between them."""

    def __init__(self, item: click.ParamType, what: str, length: int | None = None):
        self.item, self.name, self.length = item, what, length

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, tuple) else value.split(",")
        if self.length and len(parts) != self.length:
            self.fail(f"expected {self.length} {self.name} with commas between them. Got {value!r}")
        return tuple(self.item.convert(part, param, ctx) for part in parts)


_PATH = click.Path(path_type=Path)
_OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)
_COUNT = click.IntRange(min=1)
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_MODEL = click.Choice(list(_models.MODELS))


def _data_options(command: Callable) -> Callable:
    """Add the options that both commands have."""
    seconds = click.FloatRange(min=0, min_open=True)
    options = [
        click.argument("data", type=_PATH),
        click.option("--target", multiple=True, help="Column to forecast; repeat for several."),
        click.option("--horizon", type=_COUNT, required=True, help="Steps to forecast."),
        click.option("--time", help="Column of time stamps  [default: the first there is]"),
        click.option("--series-id", help="Column that names the series of each row of a panel."),
        click.option("--known", multiple=True, help="Covariate known in the future; repeatable."),
        click.option("--past", multiple=True, help="Covariate known up to now; repeatable."),
        click.option("--freq", help="pandas offset of the time steps, such as h, D, B or ME."),
        click.option("--lookback", type=_COUNT, help="Steps a network looks back."),
        click.option("--max-epochs", type=_COUNT, help="Passes over the data."),
        click.option("--time-budget", type=seconds, help="Seconds that auto may take to fit."),
        click.option("--seasonality", type=_COUNT, help="Steps in a season."),
        click.option("--order", type=_List(click.INT, "numbers", 3), help="ARIMA order p,d,q."),
        click.option("--seasonal-order", type=_List(click.INT, "numbers", 4),
                     help="ARIMA order P,D,Q,s."),
        click.option("--seed", "random_state", type=click.IntRange(min=0), default=0,
                     show_default=True),
        click.option("--quiet", is_flag=True, help="No progress, warnings or closing lines."),
    ]  # fmt: skip
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rnnforecast", message="%(prog)s %(version)s")
def app() -> None:
    """Forecast time series with recurrent networks and with classical baselines."""


@app.command()
@_data_options
@click.option("--model", type=_MODEL, default="deep-lstm", show_default=True)
@click.option("--coverage", type=_SHARE, help="Coverage of the interval  [default: 0.9]")
@click.option("--quantiles", type=_List(_SHARE, "numbers"),
              help="Quantiles instead, such as 0.1,0.5,0.9.")  # fmt: skip
@click.option("--future", type=_PATH, help="File with the coming values of the --known columns.")
@click.option("--out", type=_OUTPUT, help="CSV or Parquet file to write  [default: print CSV]")
@click.option("--plot", type=_OUTPUT, help="Picture to write: png, svg or pdf.")
def forecast(data: Path, model: str, future: Path, out: Path, plot: Path, **options: Any) -> None:
    """Fit a model to DATA (CSV or Parquet) and forecast the steps after its end."""
    levels, coverage, known = options["quantiles"], options["coverage"], options["known"]
    for wrong, message in (
        (levels and coverage, "--quantiles and --coverage say the same: give one of them"),
        (known and not future, "--known needs --future, a file with these columns' coming values"),
        (future and not known, "--future is only used with --known: name its columns"),
    ):
        if wrong:
            raise click.ClickException(message)
    from rnnforecast.cli import _files, _frames
    from rnnforecast.plotting import forecast_figure

    _files.check_output(out, _files.TABLES, data, future)
    _files.check_output(plot, _files.PICTURES)
    frame, roles = _frames.load(data, options)
    coming = None if future is None else _frames.load_future(future, roles)
    verbose = _verbose(options["quiet"])
    fitted = _models.build([model], roles, options, verbose)[model].fit(frame)
    point = fitted.forecast(coming)
    # rounded: 0.05, not 0.04999999999999999
    ends = [round((1 + sign * (coverage or 0.9)) / 2, 12) for sign in (-1, 1)]
    spread = fitted.forecast(coming, quantiles=levels or ends)
    table = _frames.flatten(point, spread, levels)

    def draw(path: Path) -> None:
        forecast_figure(fitted.history(), point, intervals=spread).savefig(path, dpi=120)

    writers = [(out, lambda path: _files.write_table(table, path)), (plot, draw)]
    _files.write_all(writers, options["quiet"])
    if out is None:
        click.echo(table.to_csv(index=False), nl=False)


@app.command()
@_data_options
@click.option("--models", type=_List(_MODEL, "models"), show_default=True,
              default=",".join(_models.DEFAULT_COMPARISON),
              help="Model names with commas between them.")  # fmt: skip
@click.option("--origins", type=_COUNT, default=3, show_default=True,
              help="How many forecast origins, counted back from the end.")  # fmt: skip
@click.option("--step", type=_COUNT, help="Steps between origins.")
@click.option("--out", type=_OUTPUT, help="CSV or Parquet file to write the table to.")
def compare(data: Path, models: Any, origins: int, step: int, out: Path, **options: Any) -> None:
    """Compare models on DATA (CSV or Parquet) by rolling origin, best first."""
    import rnnforecast
    from rnnforecast.cli import _files, _frames

    _files.check_output(out, _files.TABLES, data)
    frame, roles = _frames.load(data, options)
    rolling = {"horizon": options["horizon"], "n_origins": origins, "step": step}
    built = _models.build(models, roles, options, verbose=0)
    board = rnnforecast.compare(built, frame, **rolling, verbose=_verbose(options["quiet"]))
    table = board.reset_index()
    _files.write_all([(out, lambda path: _files.write_table(table, path))], options["quiet"])
    click.echo(table.to_string(index=False, float_format="{:.4g}".format))


@app.command()
def versions() -> None:
    """Tell versions, hardware and the kernels in use: what a report of a problem should hold."""
    import rnnforecast

    rnnforecast.show_versions()


def _verbose(quiet: bool) -> int:
    # a bar is for somebody who watches: none in a log file
    return int(not quiet and sys.stderr.isatty())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, with the arguments of the process if none are given, and end it.

    The status is 0 after success, 2 after bad input (one line on stderr), 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    message, status = None, 0
    # warnings come after the result, as one line each
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            status = app.main(arguments, prog_name="rnnforecast", standalone_mode=False) or 0
        except click.Abort:
            message, status = "interrupted", 130
        except BrokenPipeError:  # the reader of our output has seen enough
            # Python would complain once more when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            raise SystemExit(2) from None
        except click.ClickException as error:
            message, status = error.format_message(), 2
        except Exception as error:
            from rnnforecast.exceptions import RNNForecastError

            if not isinstance(error, (RNNForecastError, ValueError, OSError)):
                raise
            message, status = str(error) or type(error).__name__, 2
    if message is not None:
        click.echo(f"rnnforecast: error: {' '.join(message.split())}", err=True)
    elif "--quiet" not in arguments:
        for line in dict.fromkeys(" ".join(str(one.message).split()) for one in caught):
            click.echo(f"rnnforecast: warning: {line}", err=True)
    raise SystemExit(status)
