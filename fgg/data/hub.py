"""Fetch files of a Hugging Face hub repository with huggingface_hub, which resumes, retries and waits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from fgg.data.hub_files import OPTIONAL, OR
from fgg.data.transfer import BUSY, Interrupted, check_disk, persist
from fgg.errors import FggError
from fgg.progress import Progress

DATASETS = "datasets/"
PART = re.compile(r"\w[\w.-]*", re.ASCII)  # of a repository's name


@dataclass(frozen=True)
class Repository:
    """OWNER/NAME of a model's or a dataset's repository; ``revision`` is a branch, a tag or a commit."""

    name: str
    kind: str
    revision: str

    @property
    def page(self) -> str:
        """The address of its web page."""
        return f"https://huggingface.co/{DATASETS if self.kind == 'dataset' else ''}{self.name}"


def parse(address: str) -> Repository:
    """Parse OWNER/NAME or datasets/OWNER/NAME, with an optional @REVISION. Raises FggError for anything else."""
    name, _, revision = address.partition("@")
    kind = "dataset" if name.startswith(DATASETS) else "model"
    name = name.removeprefix(DATASETS)
    if len(name.split("/")) != 2 or not all(PART.fullmatch(part) and ".." not in part for part in name.split("/")):
        raise FggError(f"{address!r} is not a repository on the hub; write OWNER/NAME, or datasets/OWNER/NAME")
    return Repository(name, kind, revision or "main")


def fetch_hub(address: str, patterns: Sequence[str], target: Path) -> tuple[str, dict[str, str]]:
    """Fetch the files that match the patterns into a folder, under their own names.

    Returns:
        The commit, and for each file the SHA-256 that the hub states, or an empty string if it states none.

    Raises:
        FggError: no login, terms not accepted, no such repository, revision or file, no connection, or a full disk.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    repository = parse(address)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = HfApi(endpoint=endpoint)
    options: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.kind}

    def ask(bar: Progress) -> None:
        listing["commit"] = api.repo_info(**options, revision=repository.revision).sha
        found = api.list_repo_tree(**options, revision=listing["commit"], recursive=True)
        listing["files"] = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
        if unsafe := next((path for path in listing["files"] if not _below(path)), None):
            raise FggError(f"{repository.page} names a file outside its folder ({unsafe!r}); it was refused")

    def receive(bar: Progress) -> None:
        bar.total = sum(files[path].size for path in wanted)
        place: dict[str, Any] = {"revision": listing["commit"], "local_dir": target, "endpoint": endpoint}
        for path in wanted[len(done) :]:
            bar.update(sum(files[each].size for each in done) - bar.done)
            hf_hub_download(**options, **place, filename=path, tqdm_class=_bar(bar))
            done.append(path)

    listing: dict[str, Any] = {}
    done: list[str] = []
    persist(f"the list of {repository.name}", lambda: 0, _explained(ask, repository), shown=False)
    files = listing["files"]
    wanted = select(list(files), patterns, repository)
    there = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    check_disk(target, sum(files[path].size for path in wanted) - there, repository.page)
    persist(repository.page, lambda: len(done), _explained(receive, repository))
    return listing["commit"], {path: files[path].lfs.sha256 if files[path].lfs else "" for path in wanted}


def _below(path: str) -> bool:
    """Whether a path stays below the folder that it starts from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def select(paths: Sequence[str], patterns: Sequence[str], repository: Repository) -> list[str]:
    """The paths that match a pattern part by part; weights as safetensors replace the same weights as .bin.

    Raises:
        FggError: a pattern matches nothing, and is not marked as optional.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        parts = PurePosixPath(pattern.removeprefix(OPTIONAL)).parts
        matching = [
            path
            for path in paths
            if len(own := PurePosixPath(path).parts) == len(parts)
            and all(
                any(fnmatchcase(name, each) for each in part.split(OR)) for name, part in zip(own, parts, strict=True)
            )
        ]
        if not matching and not pattern.startswith(OPTIONAL):
            near = ", ".join(sorted(paths)[:8]) or "nothing"
            raise FggError(f"{repository.page} has no file {pattern.replace(OR, ' or ')}; it holds {near}")
        chosen |= set(matching)
    safe = {str(PurePosixPath(path).parent) for path in chosen if path.endswith(".safetensors")}
    return sorted(path for path in chosen if not (path.endswith(".bin") and str(PurePosixPath(path).parent) in safe))


def _bar(bar: Progress) -> type:
    """A tqdm class for huggingface_hub that reports to ``bar`` instead."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            bar.update(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            bar.update(int(n or 0))

    return Bar


def _explained(attempt: Callable[[Progress], None], repository: Repository) -> Callable[[Progress], None]:
    """Wrap an attempt: errors of the hub become messages that say what to do, or `Interrupted`."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import _http

    # The HTTP library that huggingface_hub uses depends on its version.
    library = next(getattr(_http, name) for name in ("httpx2", "httpx", "requests") if hasattr(_http, name))
    network = getattr(library, "HTTPError", library.RequestError if hasattr(library, "RequestError") else OSError)

    def explained(bar: Progress) -> None:
        try:
            attempt(bar)
        except (HfHubHTTPError, network, OSError) as error:
            meaning = _meaning(error, repository)
            if meaning is None:
                raise
            raise meaning from None

    return explained


def _meaning(error: Exception, repository: Repository) -> Exception | None:
    """Turn an error of the hub into a message or `Interrupted`; None for other errors, such as a full disk."""
    from huggingface_hub import errors

    page, name = repository.page, repository.name
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) and status == 401:
        return FggError(
            f"{name} requires a login: open {page}, log in and accept the terms; create a token at "
            "https://huggingface.co/settings/tokens; then run `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.GatedRepoError):
        return FggError(
            f"your Hugging Face account has no access to {name}: open {page}, accept the terms, wait until access is "
            "granted, and run the same command again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FggError(
            f"{page} does not exist, or is private: check the name; for a private repository run `hf auth login`, "
            "or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FggError(f"{page} has no revision {repository.revision!r}; check the part after the @")
    if status in (401, 403):
        return FggError(f"{page} rejects the login ({_short(error)}); run `hf auth login` again, or correct HF_TOKEN")
    if isinstance(error, errors.OfflineModeIsEnabled) or "HF_HUB_OFFLINE" in str(error):
        return FggError(f"{page} cannot be fetched: HF_HUB_OFFLINE is set; unset it")
    if status is not None and status not in BUSY:
        return FggError(f"{page} cannot be fetched ({_short(error)})")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return None
    return Interrupted(_short(error))


def _short(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
