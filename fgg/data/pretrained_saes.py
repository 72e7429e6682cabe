"""``sae-lens://RELEASE/SAE_ID``: the SAEs of sae-lens' own table, resolved to files on the hub. Does not import torch.

The table is read from the installed package without importing it, which takes seconds. The files are then downloaded and
checked like any others of the hub.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import yaml

from fgg.errors import FggError

LENS_SCHEME = "sae-lens://"
PACKAGE, TABLE = "sae_lens", "pretrained_saes.yaml"
# The file of weights of each conversion that fgg reads; None is sae-lens' own form.
FILES = {None: "sae_weights.safetensors", "sae_lens": "sae_weights.safetensors", "dictionary_learning_1": "ae.pt"}
# Overrides in the table that describe the model or the data, and change no code.
DESCRIBES = ("dataset_path", "model_from_pretrained_kwargs", "model_name", "hook_name", "neuronpedia_id", "prepend_bos")
MOST_NEAR = 5


def hub_address(address: str) -> str:
    """``hf://OWNER/REPOSITORY/FILE`` of ``sae-lens://RELEASE/SAE_ID``.

    Raises:
        FggError: sae-lens is not installed, or knows no such release or id (the message has the nearest names), or fgg
            does not read the form of its files.
    """
    release, _, sae_id = address.removeprefix(LENS_SCHEME).partition("/")
    if not release or not sae_id:
        raise FggError(f"{address!r} is not an SAE of sae-lens; write {LENS_SCHEME}RELEASE/SAE_ID")
    table = _table()
    if release not in table:
        raise FggError(f"{address!r}: sae-lens has no release {release!r}{_near(release, table)}")
    own = table[release]
    folders = {str(entry["id"]): str(entry["path"]) for entry in own["saes"]}
    if sae_id not in folders:
        raise FggError(
            f"{address!r}: the release {release!r} of sae-lens has no SAE {sae_id!r}{_near(sae_id, folders)}"
        )
    form = own.get("conversion_func")
    if form not in FILES:
        raise FggError(
            f"{address!r}: its files have the form {form!r}, which fgg does not read; load it with sae-lens, save it with "
            "save_inference_model, and give that folder"
        )
    changed = sorted(set(own.get("config_overrides") or {}) - set(DESCRIBES))
    if changed:
        raise FggError(
            f"{address!r}: sae-lens changes {', '.join(changed)} while it loads this SAE; load it with sae-lens, save it with "
            "save_inference_model, and give that folder"
        )
    return f"hf://{own['repo_id']}/{folders[sae_id]}/{FILES[form]}"


@functools.cache
def _table() -> Mapping[str, Any]:
    """sae-lens' table by release. Raises FggError: the package, or the table in it, is missing."""
    found = PathFinder.find_spec(PACKAGE)
    file = Path(found.origin).with_name(TABLE) if found and found.origin else None
    if file is None or not file.is_file():
        raise FggError(f"{LENS_SCHEME} needs sae-lens with its {TABLE}; install the requirements")
    with file.open(encoding="utf-8") as text:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=MOST_NEAR, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; it has {len(known)}, such as {', '.join(map(repr, known[:MOST_NEAR]))}"
