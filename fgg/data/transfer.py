"""Fetch one file over HTTP, or from Google Drive: resumed, retried, with its TLS certificate verified.

The bytes go to a file ``*.part`` beside the target. It is kept when the connection ends, and the next attempt, or the
next call, resumes it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from fgg.errors import FggError
from fgg.progress import Progress, progress

ATTEMPTS = 6  # in a row without a single new byte
BACKOFF, LONGEST_WAIT = 1.0, 60.0  # seconds; doubled after each failed attempt
TIMEOUT = (30, 60)  # seconds to connect, and to wait for the next byte
CHUNK = 2**16  # bytes; the most that is lost when a connection ends
BUSY = (408, 425, 429, 500, 502, 503, 504)
GONE = {401: "needs a login", 403: "is refused", 404: "does not exist", 410: "is gone"}
MARGIN = 2**28  # bytes to keep free
CHECK_EVERY = 1024  # chunks, between two looks at the disk, if the size of a file is not known


class Interrupted(Exception):
    """The server is busy, or the connection ended; trying again may help."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise FggError if fewer than ``needed`` bytes plus a margin are free."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise FggError(
            f"{what} needs {(needed + MARGIN) / 1e9:.1f} GB on the disk of {folder}, but only {free / 1e9:.1f} GB "
            "are free; free some space, or choose another folder with --directory"
        )


def fetch(url: str, target: Path, copies: int = 1) -> None:
    """Fetch a URL into a file.

    Args:
        copies: how many times the file's size must fit on the disk: 2 for an archive that will be unpacked.

    Raises:
        FggError: the disk is too small, the address is wrong or refused, the certificate is not valid, or the
            connection failed too often; the received bytes are kept for the next call.
    """
    part = target.with_name(f"{target.name}.part")
    persist(url, lambda: _size(part), lambda bar: _receive(url, part, bar, copies))
    part.rename(target)
    _validator(part).unlink(missing_ok=True)


def persist(what: str, got: Callable[[], int], attempt: Callable[[Progress], None], shown: bool = True) -> None:
    """Call ``attempt`` until it ends without `Interrupted`; the count restarts when ``got`` has grown.

    Raises:
        FggError: `ATTEMPTS` in a row received nothing.
    """
    failed = 0
    silent = Progress([], 0, what, stream=io.StringIO())
    with progress([], 0, f"fetching {what}", "byte") if shown else silent as bar:
        while True:
            before = got()
            try:
                return attempt(bar)
            except Interrupted as error:
                failed = 1 if got() > before else failed + 1
                if failed == ATTEMPTS:
                    raise FggError(
                        f"{what} cannot be fetched: {error}. Check the network, and run the same command again: it "
                        "resumes where it stopped"
                    ) from None
                wait = error.wait if error.wait is not None else BACKOFF * 2 ** (failed - 1)
                time.sleep(min(wait, LONGEST_WAIT))


def explain(error: requests.RequestException, what: str) -> Exception:
    """Turn an error of requests into `Interrupted` if another attempt may help, else into an FggError."""
    if isinstance(error, requests.exceptions.SSLError):
        return FggError(
            f"{what} cannot be fetched: the server's certificate cannot be verified ({_last_reason(error)}). If you "
            "trust it, fetch the file with a browser and give it with --file; if a proxy has its own certificate, set "
            "the environment variable REQUESTS_CA_BUNDLE to it"
        )
    response = error.response
    if response is None:
        unknown = requests.exceptions.InvalidSchema  # such as file://
        if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | unknown):
            return FggError(f"{what} is not an address; write it as https://HOST/PATH")
        return Interrupted(f"the connection failed ({_last_reason(error)})")
    if response.status_code in BUSY:
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isdigit() else None
        return Interrupted(f"the server is busy (status {response.status_code})", wait)
    reason = GONE.get(response.status_code, "cannot be fetched")
    return FggError(f"{what} {reason} (status {response.status_code}); check the address in the table of sources")


def _receive(url: str, part: Path, bar: Progress, copies: int) -> None:
    """One attempt: request the missing bytes, or all bytes if the server cannot resume."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if _validator(part).is_file():  # bytes of a file that has changed must not be appended to the old ones
            headers["If-Range"] = _validator(part).read_text(encoding="utf-8")
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is missing, or the file became shorter: fetch all to find out
                part.unlink()
                raise Interrupted("the server cannot resume from there", wait=0)
            answer.raise_for_status()
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            goes_on = answer.status_code == 206 and span is not None and int(span[1]) == start
            if not goes_on:
                start = 0
            if answer.status_code == 206 and not goes_on:
                part.unlink(missing_ok=True)
                raise Interrupted("the server sent a different part than requested", wait=0)
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            if (packed := answer.headers.get("Content-Encoding", "identity").lower()) != "identity":
                raise FggError(
                    f"{url} is sent packed ({packed}), which was not asked for; fetch it and give it with --file"
                )
            if total:
                check_disk(part.parent, copies * total - start, url)
                bar.total = total
            _remember(answer, part)
            with part.open("ab" if start else "wb") as file:
                bar.update(start - bar.done)
                for number, chunk in enumerate(answer.iter_content(CHUNK)):
                    if total is None and number % CHECK_EVERY == 0:  # a stream may have no end
                        check_disk(part.parent, 0, url)
                    file.write(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        raise explain(error, url) from None
    if total is not None and _size(part) != total:
        raise Interrupted(f"{_size(part):,} of {total:,} bytes arrived")


def _remember(answer: requests.Response, part: Path) -> None:
    """Store what identifies this version of the file: a strong ETag, or else the date."""
    tag = answer.headers.get("ETag", "")
    tag = answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
    if tag:
        _validator(part).write_text(tag, encoding="utf-8")
    else:
        _validator(part).unlink(missing_ok=True)


def fetch_drive(address: str, target: Path, copies: int = 1) -> None:
    """Fetch a file of Google Drive, by its id or a URL, with gdown. Raises like `fetch`."""
    import gdown

    place = {"url": address} if "://" in address else {"id": address}
    what = f"Google Drive file {address}" if "id" in place else address
    parts = f"{target.name}????????.part"  # as gdown names them

    def receive(bar: Progress) -> None:
        def tell(done: int, total: int | None) -> None:
            if total and not bar.total:
                check_disk(target.parent, copies * total - done, what)
            bar.total = total or 0
            bar.update(done - bar.done)

        try:
            gdown.download(
                **place, output=str(target), quiet=True, resume=True, progress=tell, timeout=TIMEOUT
            )  # fmt: skip
        except requests.RequestException as error:
            raise explain(error, what) from None
        except gdown.exceptions.FileURLRetrievalError as error:
            raise FggError(
                f"{what} cannot be fetched ({_plain(error)}). Google locks files that are fetched very often for a "
                "day: try again then, or fetch it with a browser and give it with --file"
            ) from None
        except gdown.exceptions.DownloadError as error:
            if "byte range" in str(error) or "multiple temporary" in str(error):  # the fetch cannot be resumed
                for part in target.parent.glob(parts):
                    part.unlink()
            raise Interrupted(_plain(error)) from None

    persist(what, lambda: sum(_size(part) for part in target.parent.glob(parts)), receive)
    umask = os.umask(0)
    os.umask(umask)
    target.chmod(0o666 & ~umask)  # gdown makes private files


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).split(" The received bytes are kept")[0].rstrip(".")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _last_reason(error: Any) -> str:
    """The innermost text of nested errors."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error) or type(error).__name__
