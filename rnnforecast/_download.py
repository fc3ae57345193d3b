"""Public files by HTTP: found on disk, or fetched, resumed and checked against a pinned sha256.

Why not a library: pooch, the one in common use, starts a broken transfer again from zero, and the
standard library needs only these few lines to go on where it stopped.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rnnforecast.exceptions import DataError, RNNForecastError

__all__ = ["RemoteFile", "cache_dir", "fetch"]

_CHUNK = 1 << 16
_ATTEMPTS = 4
_TIMEOUT = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A public file whose bytes are known.

    Parameters
    ----------
    path : str
        Where the file lies in its origin, such as ``"ETT-small/ETTh1.csv"``.
    url : str
        Address of exactly these bytes: a commit, not a branch.
    sha256 : str
        Hexadecimal digest that the file must have.
    also : tuple of str, default=()
        Further digests that are accepted for a file found on disk: the same data with other line
        ends.
    """

    path: str
    url: str
    sha256: str
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


def cache_dir() -> Path:
    """Folder that downloads go to.

    Returns
    -------
    pathlib.Path
        The environment variable ``RNNFORECAST_DATA`` where it is set, else ``rnnforecast`` in
        ``$XDG_CACHE_HOME`` or ``~/.cache``. The folder need not exist.
    """
    named = os.environ.get("RNNFORECAST_DATA")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rnnforecast"


def fetch(
    file: RemoteFile,
    data_home: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    verbose: bool = False,
) -> Path:
    """Find a file on disk, or download it.

    Parameters
    ----------
    file : RemoteFile
        What is wanted.
    data_home : path-like or None, default=None
        Folder to look in before the cache, and to download to in place of it. The file may lie in
        it directly or under its path in the origin.
    download : bool, default=True
        Whether a file that is on neither place may be downloaded.
    verbose : bool, default=False
        Whether a download shows a progress bar.

    Returns
    -------
    pathlib.Path
        A file with the pinned digest.

    Raises
    ------
    DataError
        If a file is there but has another digest.
    RNNForecastError
        If the file is nowhere and cannot be downloaded.
    """
    homes = [Path(data_home).expanduser()] if data_home is not None else []
    homes.append(cache_dir())
    for home in homes:
        for place in (home / file.name, home / file.path):
            if place.is_file():
                _check(place, file, accept=(file.sha256, *file.also))
                return place
    target = homes[0] / file.name
    by_hand = f"put the file there by hand: {file.url} -> {target}"
    if not download:
        looked = " and ".join(str(home) for home in homes)
        raise RNNForecastError(
            f"{file.name} is not in {looked}, and download=False: allow the download or {by_hand}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(file, target, verbose=verbose)
    except (OSError, http.client.HTTPException) as error:
        raise RNNForecastError(
            f"{file.name} could not be downloaded ({error or type(error).__name__}): "
            f"try again (a broken transfer is resumed) or {by_hand}"
        ) from error
    return target


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(path: Path, file: RemoteFile, accept: tuple[str, ...]) -> None:
    found = _digest(path)
    if found not in accept:
        raise DataError(
            f"{path} is not the expected file: its sha256 is {found}, expected {file.sha256}; "
            f"remove it, and it is downloaded again from {file.url}"
        )


def _download(file: RemoteFile, target: Path, *, verbose: bool) -> None:
    """Fetch into ``<name>.part``, going on where an earlier try stopped, then rename."""
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    _transfer_with_retries(file, part, verbose=verbose)
    if resumed and _digest(part) != file.sha256:
        # The rest from an earlier try belonged to something else: once more from the start.
        part.unlink()
        _transfer_with_retries(file, part, verbose=verbose)
    try:
        _check(part, file, accept=(file.sha256,))
    except DataError as error:
        found = _digest(part)
        part.unlink()
        raise DataError(
            f"{file.url} gave other bytes than expected (sha256 {found}, expected {file.sha256}); "
            f"nothing was kept. If a proxy rewrites pages, fetch the file elsewhere as {target}"
        ) from error
    os.replace(part, target)


def _transfer_with_retries(file: RemoteFile, part: Path, *, verbose: bool) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _transfer(file, part, verbose=verbose)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or attempt == _ATTEMPTS:
                raise
        except (OSError, http.client.HTTPException):
            # No progress without a connection at all: fail at once instead of trying four times.
            if attempt == _ATTEMPTS or not part.exists():
                raise


def _transfer(file: RemoteFile, part: Path, *, verbose: bool) -> None:
    """One HTTP request that appends to ``part``, or starts it anew if the server wants that."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "rnnforecast"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing left to send: complete, or not ours at all
            error.close()
            return
        raise
    with response:
        start = _range_start(response.headers.get("Content-Range"))
        append = response.status == 206 and start == have
        if response.status == 206 and not append:
            raise OSError(f"the server sent bytes from {start}, asked for {have}")
        length = response.headers.get("Content-Length")
        total = int(length) + (have if append else 0) if length is not None else None
        with part.open("ab" if append else "wb") as sink:
            _copy(response, sink, file.name, sink.tell(), total, verbose=verbose)
        size = part.stat().st_size
        if total is not None and size < total:
            raise OSError(f"the connection ended after {size} of {total} bytes")


def _range_start(header: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", header or "")
    return int(match.group(1)) if match else None


def _copy(
    source: http.client.HTTPResponse,
    sink: IO[bytes],
    name: str,
    have: int,
    total: int | None,
    *,
    verbose: bool,
) -> None:
    def copy(progress: Callable[[int], object]) -> None:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
            progress(len(chunk))

    if not verbose:
        return copy(lambda size: None)
    from tqdm.auto import tqdm

    with tqdm(desc=name, initial=have, total=total, unit="B", unit_scale=True) as bar:
        copy(bar.update)
