"""From the columns of a file to a frame and the roles of its columns, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from click import ClickException

from rnnforecast.cli._files import read

__all__ = ["flatten", "load", "load_future"]


def load(path: Path, options: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a file: the columns in use, and their roles as parameters of a forecaster."""
    frame = read(path)
    asked = {f"--{role}": options[role] for role in ("target", "known", "past")}
    keys = {"--time": options["time"], "--series-id": options["series_id"]}
    asked |= {option: [name] for option, name in keys.items() if name}
    named = [name for names in asked.values() for name in names]
    for option, names in asked.items():
        _check_present(frame, names, path, option)
        for name in names:
            if named.count(name) > 1:
                raise ClickException(f"column {name!r} is named twice: a column has one role")
    series_id, time = options["series_id"], options["time"] or _find_time(frame, path, named)
    if series_id and time is None:
        raise ClickException(f"{path}: no column holds time stamps: name one with --time")
    target = list(options["target"]) or [_only_number(frame, path, {time, *named})]
    for name in (name for name in target if _is_text(frame[name])):
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (ValueError, TypeError) as error:
            message = f"{path}: column {name!r} must hold numbers: {error}"
            raise ClickException(message) from error
    roles = {
        "target": target[0] if len(target) == 1 else target,
        "known": list(options["known"]) or None,
        "series_id": series_id,
        "time": time,
        "horizon": options["horizon"],
        "freq": options["freq"],
    }
    return _columns(frame, roles, [*target, *options["past"], *options["known"]], path), roles


def load_future(path: Path, roles: dict[str, Any]) -> pd.DataFrame:
    """Read a file with the coming values of the known covariates."""
    return _columns(read(path), roles, roles["known"], path)


def flatten(point: pd.DataFrame, spread: pd.DataFrame, levels: Any) -> pd.DataFrame:
    """Columns of the index, as the file names them, and of each target: temp, and beside it
    temp_lower and temp_upper, or temp_q0.1 and so on for the quantiles asked for.
    """
    parts = []
    for name in point.columns:
        ends = spread[name]
        names = ["lower", "upper"] if levels is None else [f"q{level:g}" for level in ends.columns]
        parts += [point[[name]], ends.set_axis([f"{name}_{end}" for end in names], axis=1)]
    table = parts[0].join(parts[1:])
    return table.rename_axis(index=[name or "step" for name in table.index.names]).reset_index()


def _columns(
    frame: pd.DataFrame, roles: dict[str, Any], names: Sequence[str], path: Path
) -> pd.DataFrame:
    """Some columns beside those of series and time, rows in their order."""
    keys = [name for name in (roles["series_id"], roles["time"]) if name is not None]
    _check_present(frame, [*keys, *names], path, "the forecast")
    kept, time = frame[[*keys, *names]], roles["time"]
    if time is None:
        return kept
    if _is_text(kept[time]):  # numbers count steps
        kept = kept.assign(**{time: _stamps(kept[time], path)})
    return kept.sort_values(keys, kind="stable", ignore_index=True)


def _check_present(frame: pd.DataFrame, names: Sequence[str], path: Path, role: str) -> None:
    for name in names:
        if name not in frame.columns:
            shown = ", ".join(map(str, frame.columns[:12]))
            shown += ", ..." if len(frame.columns) > 12 else ""
            raise ClickException(f"{path} has no column {name!r} for {role}; its columns: {shown}")


def _find_time(frame: pd.DataFrame, path: Path, taken: Sequence[str]) -> Any:
    """Name of the first column of time stamps, or of text that begins with one."""
    for name in frame.columns.difference(taken, sort=False):
        column = frame[name].dropna()
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return name
        if len(column) and _is_text(column) and _is_stamp(column.iloc[0]):
            if _is_stamp(name):
                got = f"Got {','.join(map(str, frame.columns[:4]))!r}, which looks like data"
                raise ClickException(f"{path}: the first line must name the columns. {got}")
            return name
    return None


def _is_stamp(value: Any) -> bool:
    """Whether a text reads as a time stamp: pandas takes "sun" for one too, hence four digits."""
    text = str(value)
    digits = sum(character.isdigit() for character in text)
    number, stamp = (read(text, errors="coerce") for read in (pd.to_numeric, pd.to_datetime))
    return digits >= 4 and pd.isna(number) and not pd.isna(stamp)


def _stamps(column: pd.Series, path: Path) -> pd.Series:
    """Text as time stamps; in UTC where their offsets differ, as around a clock change."""
    offsets = column.astype(str).str.extract(r":\d\d[\d.:]*([+-]\d\d:?\d\d)$")[0]
    try:
        return pd.to_datetime(column, utc=offsets.nunique() > 1)
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).split(". You might want")[0]
        message = f"{path}: column {column.name!r} cannot be read as time stamps: {reason}"
        raise ClickException(message) from error


def _only_number(frame: pd.DataFrame, path: Path, taken: set[Any]) -> str:
    numbers = [name for name in frame.select_dtypes("number").columns if name not in taken]
    if len(numbers) != 1:
        found = f"has the numeric columns {', '.join(map(str, numbers))}" if numbers else ""
        raise ClickException(f"{path} {found or 'has no numeric column'}: name one with --target")
    return numbers[0]


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column.dtype) or column.dtype == object
