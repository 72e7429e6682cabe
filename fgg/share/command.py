"""``fgg share``: write a folder of SAEs for the Hugging Face hub, and upload it if that is asked for."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from fgg.errors import FggError
from fgg.tables import atomic, read_json
from fgg.visible import has_controls

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
UNKNOWN = ("unknown", "none", "not-stated", "unlicensed")
CARD = "README.md"
ABOUT = """Share SAEs: write a folder that is ready for the Hugging Face hub.

Per layer it has the weights, a cfg.json that fgg and sae_lens.SAE.load_from_disk read, what was measured, and a figure of
features; README.md is the model card. What was written is read back and compared with its source. Nothing is sent anywhere
unless --upload is given."""
EXAMPLES = """examples:
  fgg share --output my-saes --license cc-by-4.0              all SAEs of the dataset trained in this folder
  fgg share --output my-saes --dataset elpv --layer 2         one SAE
  fgg share --output my-saes --license mit --upload me/my-saes   to a private repository, with the token of `hf auth login`
"""


def add_share(parts: Any) -> None:
    """Add the command to the parser of ``fgg``."""
    part = parts.add_parser(
        "share", help="write a folder with SAEs for the Hugging Face hub, and upload it if asked to", description=ABOUT,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    part.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    part.add_argument("--dataset", metavar="NAME", help="folder below data/saes; may be left out where there is one")
    part.add_argument("--layer", type=int, action="append", default=[], metavar="N", help="repeatable (default: all)")
    part.add_argument("--directory", type=Path, default=Path(), metavar="DIR",
                      help="folder in which data/ and results/ lie (default: the current one)")  # fmt: skip
    part.add_argument("--license", dest="licence", metavar="ID",
                      help="the SAEs' licence as the hub names it, such as cc-by-4.0, mit or other; needed for an upload")  # fmt: skip
    part.add_argument("--license-link", dest="licence_link", metavar="URL", help="the text of the licence `other`")
    part.add_argument("--no-images", action="store_true", help="no figure of features, which shows images of the data")
    part.add_argument("--force", action="store_true", help="replace files in a folder that is not empty")
    part.add_argument(
        "--upload", metavar="OWNER/REPO", help="upload to this repository of the hub, private if it is new"
    )
    part.add_argument("--public", action="store_true", help="make a new repository public")


def share(arguments: argparse.Namespace) -> None:
    """Write the folder, check it, say what it holds, and upload it if that is asked for.

    Raises:
        FggError: see `fgg.share.folder` and `fgg.share.upload`; or an upload without a licence.
    """
    from fgg.share.upload import check_repository, endpoint, upload, user_token

    check_licence(arguments.licence, arguments.licence_link, arguments.upload is not None)
    token = ""
    if arguments.upload is not None:
        check_repository(arguments.upload)
        endpoint()
        token = user_token()
    elif arguments.public:
        raise FggError("--public belongs to --upload OWNER/REPO")
    files = write(arguments)
    if arguments.upload is None:
        print("nothing was uploaded; --upload OWNER/REPO does that")
        return
    page = upload(arguments.output, files, arguments.upload, token, private=not arguments.public)
    print(f"uploaded {len(files)} files: {page}")


def check_licence(licence: str | None, link: str | None, needed: bool) -> None:
    """Raise FggError if a licence is no identifier, or is not known and needed."""
    if licence is not None and not LICENCE.fullmatch(licence):
        raise FggError(
            f"--license {licence!r} is no identifier of a licence; write one such as cc-by-4.0, apache-2.0 or mit"
        )
    if link is not None and (has_controls(link) or " " in link):
        raise FggError(f"--license-link {link!r} is no address; give one such as https://HOST/PATH")
    if licence == "other" and not link:
        raise FggError("--license other needs --license-link URL, where the licence can be read")
    if needed and (licence is None or licence in UNKNOWN):
        raise FggError(
            "an upload needs the SAEs' licence: give --license ID, such as cc-by-4.0. SAEs and images that came from "
            "elsewhere have terms of their own; ask their authors if you do not know them"
        )


def write(arguments: argparse.Namespace) -> list[str]:
    """Write the folder; the paths of its files, relative to it."""
    from fgg.share.card import model_card
    from fgg.share.folder import check_output, sae_folders, write_sae
    from fgg.share.private import local_lines

    os.environ.setdefault("WANDB_MODE", "disabled")  # sae-lens imports wandb
    output, directory = arguments.output, arguments.directory
    check_output(output, arguments.force)
    dataset, folders = sae_folders(directory, arguments.dataset, arguments.layer)
    saes = [write_sae(source, output, layer) for layer, source in folders.items()]
    facts = _facts(arguments, dataset)
    if not arguments.no_images:
        facts.figures = _figures(directory, dataset, list(folders), output)
    text = model_card(dataset, saes, facts, arguments.upload)
    if faulty := next(local_lines(text), None):
        raise FggError(f"the card would name a folder of this machine ({faulty.strip()}); rename what is called so")
    with atomic(output / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")
    files = [CARD, *(name for sae in saes for name in sae.files), *(file for file, _ in facts.figures.values())]
    for sae in saes:
        print(f"layer {sae.layer}: written and read back by sae-lens: encode and decode as in {folders[sae.layer]}")
        for name in sae.left_out:
            print(f"layer {sae.layer}: left out, because it holds a path of this machine: {name}")
    for file, words in facts.figures.values():
        print(f"{file} shows images of the data: {words}; --no-images leaves it out")
    if facts.licence is None:
        print("the card has no licence; --license ID states it")
    print(f"folder: {output}")
    return files


def _facts(arguments: argparse.Namespace, dataset: str) -> Any:
    """What the records of the run say about images and model."""
    from fgg.saes.provenance import model_record
    from fgg.share.card import Facts
    from fgg.share.private import without_paths

    data = arguments.directory / "data"
    facts = Facts(licence=arguments.licence, licence_link=arguments.licence_link)
    record = data / "prepared" / dataset / "dataset.json"
    if record.is_file():
        kept = ("source", "licence", "citation", "classes", "counts")
        found = read_json(record)
        facts.data = {key: found[key] for key in kept if key in found}
    model = data / "models" / dataset
    if (model / "model.json").is_file() and (model / "model.safetensors").is_file():
        found = read_json(model / "model.json")
        own = {key: found[key] for key in ("kwargs", "preprocess") if key in found}
        facts.model = without_paths(own, "model.json", []) | model_record(found["architecture"], model)
    return facts


def _figures(directory: Path, dataset: str, layers: list[int], output: Path) -> dict[int, tuple[str, str]]:
    """Layer -> file of the figure of its features, and what it shows; for the layers that have prototypes."""
    from fgg.share.sheet import feature_sheet

    found = {}
    for layer in layers:
        file = f"layer_{layer}/features.png"
        if words := feature_sheet(directory, dataset, layer, output / file):
            found[layer] = (file, words)
    return found
