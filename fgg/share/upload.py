"""Upload a folder to the Hugging Face hub, with the user's own token. Imports huggingface_hub only when it is called."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgg.errors import FggError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HERE = ("127.0.0.1", "localhost", "::1")
TOKENS = "https://huggingface.co/settings/tokens"


def check_repository(name: str) -> None:
    """Raise FggError if a name is not OWNER/REPO."""
    if not REPOSITORY.fullmatch(name) or ".." in name:
        raise FggError(f"--upload {name!r} is no repository on the hub; write OWNER/REPO, such as me/my-saes")


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, or the public hub. Raises FggError: it would get the token without encryption."""
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in HERE):
        raise FggError(
            f"HF_ENDPOINT is {address}, which would get your token without encryption; give an https:// address"
        )
    return address


def user_token() -> str:
    """The user's token, from ``HF_TOKEN`` or a login with ``hf auth login``. Raises FggError if there is none."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise FggError(
            f"an upload needs your token: create one with the right to write at {TOKENS}, then run `hf auth login`, or set "
            "HF_TOKEN"
        )
    return token


def upload(folder: Path, files: Sequence[str], repository: str, token: str, private: bool = True) -> str:
    """Upload files of a folder in one commit; the repository is created if it does not exist.

    Args:
        files: paths below the folder; nothing else is sent.
        repository: OWNER/REPO.
        private: of a new repository. One that exists stays as it is.

    Returns:
        The address of the repository's page.

    Raises:
        FggError: the hub cannot be reached, does not accept the token, or gives it no right to write.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import _http

    library = next(getattr(_http, name) for name in ("httpx2", "httpx", "requests") if hasattr(_http, name))
    network = getattr(library, "HTTPError", OSError)
    address = endpoint()
    api = HfApi(endpoint=address, token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Upload SAEs with fgg")
    except (HfHubHTTPError, network, ConnectionError) as error:
        raise FggError(_meaning(error, repository, address)) from None
    return f"{address}/{repository}"


def _meaning(error: Any, repository: str, address: str) -> str:
    """What an error of the hub means, and the remedy. The token is never part of it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repository} cannot be uploaded: HF_HUB_OFFLINE is set; unset it"
    if status == 401:
        return f"{address} does not accept your token ({said}); create another one at {TOKENS}, and set HF_TOKEN"
    if status in (403, 404):
        owner = repository.split("/")[0]
        return (
            f"your token has no right to write to {repository} ({said}); take one with the right to write for {owner} at "
            f"{TOKENS}, or give a repository of your own"
        )
    if status is not None:
        return f"{address} refuses the upload to {repository} ({said or status}); try again later"
    return (
        f"{address} cannot be reached ({said or type(error).__name__}); check the network and HF_ENDPOINT. The folder is "
        "complete: run the same command with --force to upload it"
    )
