"""The options of ``fgg explain``, and the checks that need neither the model nor the images. Does not import torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fgg.attribution.registry import MASKS, Method, find_method, methods
from fgg.catalogue import CONSTRUCTIONS, FILLS
from fgg.errors import FggError

GATED, PLAIN = "gated", "transmm"
ARRAYS, TABLES, RECORDS = (".npy", ".npz", ".tif", ".tiff"), (".parquet",), (".json",)
STDOUT = "-"
# The mean of the training images belongs to a dataset, which a model of one's own may lack.
OFFERED = tuple(name for name in FILLS if name != "training_mean")
ABOUT = """Explain images: what a Vision Transformer sees in them, and which SAE features matter for that.

Prints what the model predicts, which patches gained and lost relevance by the gate and which features of the sparse
autoencoders (SAEs) make up their score, and how the probability reacts when the most relevant patches are removed, beside
random ones. Writes a picture: the image, the map without SAEs (TransMM), the map gated with SAE features, and the difference,
all as shares of the relevance."""
EXAMPLES = """examples:
  fgg explain photo.png                            the dataset trained in this folder
  fgg explain photo.png --dataset elpv --directory ~/fgg --output photo-explained.png
  fgg explain cell0004 cell0015                    images of the dataset, by their image_id
  fgg explain photo.png --class mono-defective     why this class, and not the predicted one?
  fgg explain photo.png --method transmm,rollout,gated   several maps side by side
  fgg explain photos --output pictures --json all.json   a folder: a picture per image, and all figures in one file
  fgg explain photo.png --model weights.safetensors --architecture vit_base_patch16_224 --sae 2=saes/layer_2
"""


def add_options(part: argparse.ArgumentParser) -> None:
    """Add all options to the command's parser."""
    part.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image file, image_id of the dataset, or folder of images with the folders in it; several may be given",
    )  # fmt: skip
    part.add_argument("--output", type=Path, default=Path("explained.png"), metavar="FILE|FOLDER",
                      help="picture to write, .png, .svg, .pdf or .jpg, with a row per image; a name without ending is a "
                      "folder, with a .png per image (default: %(default)s)")  # fmt: skip
    part.add_argument("--no-picture", action="store_true", help="write no picture")

    trained = part.add_argument_group("a dataset that the workflow has trained")
    trained.add_argument("--dataset", metavar="NAME", help="its name, such as elpv; may be left out where there is one")
    trained.add_argument("--directory", type=Path, default=Path(), metavar="DIR",
                         help="folder in which data/ lies (default: the current one)")  # fmt: skip

    own = part.add_argument_group("or a model of your own")
    own.add_argument(
        "--model", metavar="PATH", help="folder with model.json, file of weights, or `pretrained` (timm's)"
    )
    own.add_argument("--architecture", metavar="NAME", help="timm's name of the model; needed with a file of weights")
    own.add_argument("--kwargs", type=_table, metavar="JSON", help="options for timm, such as '{\"img_size\": 384}'")
    own.add_argument("--preprocess", type=_table, metavar="JSON",
                     help="size, crop, channels, interpolation, mean, std, where they differ from the weights'")  # fmt: skip
    own.add_argument("--classes", metavar="FILE", help="text file with a class name per line, in the model's order")
    own.add_argument("--sae", action="append", default=[], metavar="LAYER=PATH",
                     help="SAE of the output of a block (from 0): in any form of docs/own-data.md; repeatable")  # fmt: skip

    what = part.add_argument_group("what is computed")
    what.add_argument(
        "--class", dest="target", metavar="NAME|INDEX", help="class to explain (default: the predicted one)"
    )
    what.add_argument("--method", action="append", default=[], metavar="NAME[,NAME…]",
                      help=f"maps, also by repeating the option: {', '.join([GATED, *_usable()])}, or module:function "
                      f"(default: {GATED}, which is gated TransMM, and brings TransMM with it)")  # fmt: skip
    what.add_argument("--layers", type=_layers, metavar="L[,L…]", help="blocks to gate (default: all that have an SAE)")
    what.add_argument("--construction", choices=list(CONSTRUCTIONS), default="combined",
                      help="what the gate is made of (default: %(default)s, activation x gradient of each feature)")  # fmt: skip
    what.add_argument("--clamp-max", type=float, default=10.0, metavar="X", help="largest gate (default: %(default)g)")
    what.add_argument(
        "--alpha", type=float, default=1.0, metavar="X", help="steepness of the gate (default: %(default)g)"
    )
    what.add_argument("--features", type=_count, default=6, metavar="N", help="features to name (default: %(default)s)")
    what.add_argument("--remove", type=float, default=10.0, metavar="PERCENT",
                      help="share of the patches that is removed to test the maps; 0 skips this (default: %(default)g)")  # fmt: skip
    what.add_argument("--fill", action="append", default=[], metavar="NAME[,NAME…]",
                      help=f"what replaces them: {', '.join(OFFERED)}, or a number (default: mean,removal)")  # fmt: skip
    what.add_argument("--draws", type=_number, default=20, metavar="N",
                      help="random sets of as many patches that are removed for comparison (default: %(default)s)")  # fmt: skip
    what.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    what.add_argument("--seed", type=int, default=0,
                      help="of the random patches and the random method (default: %(default)s)")  # fmt: skip

    looks = part.add_argument_group("the picture")
    looks.add_argument("--smooth", action="store_true", help="interpolate the maps between patches")
    looks.add_argument("--own-scale", action="store_true",
                       help="a scale per map; by default the maps of an image share one")  # fmt: skip
    looks.add_argument("--grey", action="store_true", help="show the images in grey under the maps")

    files = part.add_argument_group("files on request")
    files.add_argument("--json", nargs="?", const=STDOUT, type=_json_file, metavar="FILE",
                       help="all that is printed, as JSON in a .json file; without FILE on standard output, in place of the "
                       "text (write it last, or as --json=FILE)")  # fmt: skip
    files.add_argument("--maps", type=Path, metavar="FILE",
                       help="the maps at the size of the model's input, as the methods give them. .npy: float32 (images, "
                       "maps, height, width); .npz: that as `maps`, with `image_id` (images) and `map` (maps); .tif: a "
                       "float32 page (height, width) per map, image by image, named in the description")  # fmt: skip
    files.add_argument("--patch-features", type=Path, metavar="FILE",
                       help=".parquet: a row per active feature of every patch: image_id, layer, patch, feature, activation, "
                       "gradient, contribution")  # fmt: skip
    files.add_argument("--panels", type=Path, metavar="FOLDER",
                       help="every panel as a .png of its own, in a folder per image, and metadata.json")  # fmt: skip


def chosen_methods(given: list[str]) -> tuple[str, ...]:
    """The maps in the order that they are shown. TransMM stands before its gated map, which is compared with it.

    Raises:
        FggError: an unknown method, or one that is named twice.
    """
    found = [name.strip() for each in given or [GATED] for name in each.split(",")]
    for name in found:
        if name != GATED and _reads_masks(find_method(name)):
            raise FggError(f"--method {name} reads the masks of a dataset, which only the workflow can give")
        if found.count(name) > 1:
            raise FggError(f"--method names {name} twice; name every map once")
    if GATED in found and PLAIN not in found:
        found.insert(found.index(GATED), PLAIN)
    return tuple(found)


def _usable() -> list[str]:
    """The methods that need nothing but a model and an image."""
    return [name for name, own in methods().items() if not _reads_masks(own)]


def _reads_masks(method: Method) -> bool:
    return any(name in method.declaration.parameters for name in MASKS)


def chosen_fills(given: list[str]) -> tuple[str, ...]:
    """The fills. Raises FggError for an unknown one."""
    found = [name.strip() for each in given or ["mean", "removal"] for name in each.split(",")]
    for name in found:
        if name not in OFFERED and not _is_number(name):
            raise FggError(f"--fill {name!r} is unknown; choose from {', '.join(OFFERED)}, or give a number")
    return tuple(dict.fromkeys(found))


def check(arguments: argparse.Namespace) -> None:
    """Check what needs neither the model nor the images: numbers, names of files, and options that belong together.

    Raises:
        FggError: with the option and what it takes.
    """
    shown = chosen_methods(arguments.method)
    chosen_fills(arguments.fill)
    if not 0 <= arguments.remove <= 100:
        raise FggError(f"--remove {arguments.remove:g}: give a percentage of the patches from 0 to 100")
    if arguments.layers and GATED not in shown:
        raise FggError(f"--layers belongs to --method {GATED}; {', '.join(shown)} has no gate")
    if arguments.patch_features is not None and (
        GATED not in shown or not CONSTRUCTIONS[arguments.construction].needs_sae
    ):
        raise FggError("--patch-features needs a gate made of SAE features; add --method gated")
    if arguments.no_picture and arguments.output != Path("explained.png"):
        raise FggError("--no-picture and --output exclude each other")
    files = {"--maps": (arguments.maps, ARRAYS), "--patch-features": (arguments.patch_features, TABLES)}
    for option, (path, endings) in files.items():
        if path is not None and path.suffix.lower() not in endings:
            raise FggError(f"{option} {path}: end the name in {', '.join(endings)}")
    for option, path in outputs(arguments).items():
        _check_place(option, path, is_folder(option, path))
    inputs = {Path(name).resolve(): name for name in arguments.images}
    taken: dict[Path, str] = {}
    for option, path in outputs(arguments).items():
        if path.resolve() in inputs and not is_folder(option, path):
            raise FggError(f"{option} {path} would replace the image {inputs[path.resolve()]}; give another name")
        if path.resolve() in taken:
            raise FggError(f"{option} and {taken[path.resolve()]} name the same file, {path}")
        taken[path.resolve()] = option


def outputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """Option -> the file or folder that it writes."""
    found = {"--output": None if arguments.no_picture else arguments.output, "--maps": arguments.maps,
             "--patch-features": arguments.patch_features, "--panels": arguments.panels,
             "--json": None if arguments.json in (None, STDOUT) else Path(arguments.json)}  # fmt: skip
    return {option: path for option, path in found.items() if path is not None}


def is_folder(option: str, path: Path) -> bool:
    """Whether an option writes a folder."""
    return option == "--panels" or (option == "--output" and not path.suffix)


def _check_place(option: str, path: Path, folder: bool) -> None:
    """Raise FggError if a file or folder cannot be written there."""
    if not folder and path.is_dir():
        raise FggError(f"{option} {path} is a folder, but a file is needed; give another path")
    for above in (*([path] if folder else []), *path.parents):
        if above.exists() and not above.is_dir():
            raise FggError(f"{option}: {above} is a file, but a folder is needed; give another path")


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def _json_file(text: str) -> str:
    if text != STDOUT and Path(text).suffix.lower() not in RECORDS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .json; without a file, write --json last")
    return text


def _table(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _layers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: write block numbers from 0, such as 1,2")
    return tuple(sorted({int(part) for part in parts}))


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
