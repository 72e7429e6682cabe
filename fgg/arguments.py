"""Arguments that several jobs take, in the same words everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fgg.errors import json_object
from fgg.shards import WHOLE, Shard

ARGUMENTS: dict[str, dict[str, Any]] = {
    "model": {"type": Path, "required": True, "help": "model folder"},
    "data": {"type": Path, "required": True, "help": "folder of the prepared dataset"},
    "images": {"type": Path, "required": True, "help": "prepared split (.parquet)"},
    "layer": {"type": int, "required": True, "help": "block whose output the SAE reads, from 0"},
    "experiment": {"type": json_object, "required": True, "help": "JSON: method, gate, control"},
    "settings": {"type": json_object, "required": True, "help": "JSON"},
    "output": {"type": Path, "required": True, "help": "table to write"},
    "shard": {"type": Shard.parse, "default": WHOLE, "metavar": "K-of-N", "help": "one of N groups of images"},
}


def add_arguments(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add arguments of `ARGUMENTS` by name; those given by keyword get a help text of their own."""
    for name in (*names, *helps):
        options = ARGUMENTS[name]
        parser.add_argument(f"--{name}", **options | {"help": helps.get(name, options["help"])})
