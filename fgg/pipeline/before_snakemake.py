"""What is looked at before Snakemake starts, from the profiles: faults that it would answer with a traceback.

A profile is read when the command line is known and before anything else happens. Does not import torch.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from pathlib import Path
from typing import Protocol

import yaml

from fgg.data.settings_files import parse_settings
from fgg.errors import FggError, once_each
from fgg.pipeline.config_messages import refuse, unfit
from fgg.pipeline.environment import about_cards, cards, writable

CACHE = Path(".snakemake", "fgg", "cache")  # in the working folder, where the home folder cannot be written
# Caches whose content is worth reading even if nothing can be added: environment variable -> folder.
KEPT = {"HF_HOME": "~/.cache/huggingface", "TORCH_HOME": "~/.cache/torch"}
TARGETS = ("results", "data")


class Places(Protocol):
    """Where the system keeps a program's files."""

    @property
    def user_cache_dir(self) -> str:
        """The folder of caches. Raises RuntimeError: the user has no home folder."""


def check(given: argparse.Namespace, places: Places) -> None:
    """End the process with one message if Snakemake could not start; else make sure that it has a folder for its cache.

    Args:
        given: Snakemake's parsed command line.
        places: where Snakemake keeps its cache.
    """
    try:
        for path in given.configfile or ():
            check_configuration(Path(path))
        folder = Path(given.directory or ".")
        check_folder(folder)
        _name_user()
        for remark in (provide_cache(folder.absolute(), places), _about_gpus(given)):
            if remark:
                print(remark, file=sys.stderr)
    except FggError as error:
        sys.exit(f"error: {error}")


def _about_gpus(given: argparse.Namespace) -> str | None:
    """What `about_cards` says, where jobs run on this machine."""
    if getattr(given, "executor", None) not in (None, "local", "dryrun") or getattr(given, "dryrun", False):
        return None
    asked = (getattr(given, "resources", None) or {}).get("gpu")
    number = getattr(asked, "value", asked)
    return about_cards(number if isinstance(number, int) else None, cards())


def check_configuration(path: Path) -> None:
    """Check that a file of settings can be read.

    Raises:
        FggError: it does not exist, is a folder, may not be read, is not YAML text, or is larger than a file can be.
    """
    try:
        if not path.exists():
            raise FggError(_missing(path))
        if path.is_dir():
            raise FggError(f"--configfile {path} is a folder; name a file in it")
        if path.is_file():  # a pipe can be read only once
            _parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise FggError(f"--configfile {path} is not UTF-8 text ({error}); save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FggError(f"--configfile {path} is not valid YAML ({reason}); correct it") from None
    except RecursionError:
        raise FggError(f"--configfile {path} is nested too deeply; write it with fewer levels") from None
    except OSError as error:
        raise FggError(f"--configfile {path} cannot be read ({error.strerror}); check the path") from None


def _parse(text: str) -> None:
    """Parse settings as Snakemake does, and look for aliases without bound, which it would follow."""
    try:
        value = json.loads(text, object_pairs_hook=once_each)
    except ValueError:
        value = parse_settings(text, "YAML")  # merged mappings would grow before they could be counted
    if isinstance(value, dict) and not value.get("__use_yte__"):
        refuse(unfit(value))


def _missing(path: Path) -> str:
    if path.parts and path.parts[0] in TARGETS:  # --configfile takes all words that follow it
        return (
            f"--configfile {path}: there is no such file; if it is what the run is to make, name it before the options: "
            f"snakemake {path} --configfile …"
        )
    return f"--configfile {path} does not exist (seen from {Path.cwd()}); check the path"


def check_folder(folder: Path) -> None:
    """Check that a run can work in a folder, which need not exist.

    Raises:
        FggError: it is no folder, or cannot be made.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise FggError(f"--directory {folder}: {place} is not a folder; name another one")
    if place != folder.absolute() and not writable(place):
        raise FggError(
            f"--directory {folder} cannot be made, since nothing can be written to {place}; name another one, or fix its "
            "permissions"
        )


def provide_cache(folder: Path, places: Places) -> str:
    """Let Snakemake and the jobs keep caches in the working folder if the home folder cannot be written; a note, or nothing.

    Snakemake, matplotlib and others need a folder for what they can make again. What Hugging Face and torch have
    downloaded stays where it is.
    """
    try:
        old = Path(places.user_cache_dir)
    except RuntimeError:  # a user without a home folder
        old = Path("~/.cache/snakemake")
    if old.is_absolute() and writable(old):
        return ""
    for name, path in KEPT.items():
        known = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails without a home folder
        if name not in os.environ and known.is_absolute() and known.is_dir():
            os.environ[name] = str(known)
    os.environ["XDG_CACHE_HOME"] = str(folder / CACHE)
    os.environ.setdefault("MPLCONFIGDIR", str(folder / CACHE / "matplotlib"))
    return f"note: nothing can be written to {old.parent}; caches go to {folder / CACHE} (XDG_CACHE_HOME chooses another place)"


def _name_user() -> None:
    """Give a name to a user whom the system does not know, as in some containers; Snakemake and torch ask for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"
