"""The command ``fgg``; its parts load what they need when they are called."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgg import __version__
from fgg.attribution.registry import methods
from fgg.catalogue import CONSTRUCTIONS
from fgg.degeneracy import MeaninglessGate
from fgg.errors import FggError
from fgg.faithfulness.registry import metrics
from fgg.jobs.command import command
from fgg.pipeline.start import add_run, own_words, run
from fgg.share.command import add_share, share

if TYPE_CHECKING:
    import torch

    from fgg.explain.explained_model import Subject

GATED = "gated"
ABOUT = """Explain images: what a Vision Transformer sees in them, and which SAE features matter for that.

Prints what the model predicts and which features of the sparse autoencoders (SAEs) raised or lowered the relevance of
patches, and writes a picture: the image, the map without SAEs (TransMM), the map gated with SAE features, and the
difference."""
EXAMPLES = """examples:
  fgg explain photo.png                            the dataset trained in this folder
  fgg explain photo.png --dataset elpv --directory ~/fgg --output photo-explained.png
  fgg explain cell0004 cell0015                    images of the dataset, by their image_id
  fgg explain photo.png --class mono-defective     why this class, and not the predicted one?
  fgg explain photo.png --method rollout           another method, without a gate
  fgg explain photo.png --model weights.safetensors --architecture vit_base_patch16_224 --sae 2=saes/layer_2
"""


@command
def main(argv: list[str] | None = None) -> None:
    """Run the part that is named, or show the help."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    words, rest = own_words(words) if words[:1] == ["run"] else (words, [])
    arguments = parser.parse_args(words)
    if arguments.part is None:
        parser.print_help()
        return
    try:
        if arguments.part == "explain":
            explain(arguments)
        elif arguments.part == "share":
            share(arguments)
        elif arguments.part == "run":
            if status := run(arguments, rest):
                sys.exit(status)
        elif arguments.part == "bench":
            from fgg.bench.__main__ import main as bench

            sys.exit(bench(arguments.options))
        else:
            print("\n".join(LISTS[arguments.part]()))
        if sys.stdout is not None:  # closed, such as by >&-
            sys.stdout.flush()
    except BrokenPipeError:  # such as `fgg explain … | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fgg",
        description="Are Vision Transformer explanations more faithful when gated with sparse autoencoder features?",
        epilog="The experiments run with `fgg run`, `make results`, or Snakemake itself; see the README.",
    )
    parser.add_argument("--version", action="version", version=f"fgg {__version__}")
    parts = parser.add_subparsers(dest="part", metavar="COMMAND", title="commands")
    part = parts.add_parser(
        "explain", help="explain images: prediction, SAE features, and a picture of the maps", description=ABOUT,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run(parts)
    add_share(parts)
    bench = parts.add_parser(
        "bench", help="measure speed on this machine, against its limit and other libraries",
        description="Measure speed on this machine; see python -m fgg.bench --help for the options.", add_help=False,
    )  # fmt: skip
    bench.add_argument("options", nargs=argparse.REMAINDER)
    parts.add_parser("methods", help="list the attribution methods", description="List the attribution methods.")
    parts.add_parser("metrics", help="list the faithfulness metrics", description="List the faithfulness metrics.")
    part.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image file, or an image_id of the dataset; several may be given"
    )
    part.add_argument("--output", type=Path, default=Path("explained.png"), metavar="FILE",
                      help="picture to write, .png, .svg or .pdf; a row per image (default: %(default)s)")  # fmt: skip

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
    what.add_argument(
        "--method",
        default=GATED,
        metavar="NAME",
        help=f"{', '.join([GATED, *methods()])}, or module:function (default: %(default)s, which is gated TransMM)",
    )
    what.add_argument("--layers", type=_layers, metavar="L[,L…]", help="blocks to gate (default: all that have an SAE)")
    what.add_argument("--construction", choices=list(CONSTRUCTIONS), default="combined",
                      help="what the gate is made of (default: %(default)s, activation x gradient of each feature)")  # fmt: skip
    what.add_argument("--clamp-max", type=float, default=10.0, metavar="X", help="largest gate (default: %(default)g)")
    what.add_argument(
        "--alpha", type=float, default=1.0, metavar="X", help="steepness of the gate (default: %(default)g)"
    )
    what.add_argument("--features", type=_count, default=6, metavar="N", help="features to name (default: %(default)s)")
    what.add_argument("--smooth", action="store_true", help="interpolate the maps between patches")
    what.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    what.add_argument("--seed", type=int, default=0, help="of the random method (default: %(default)s)")
    return parser


def list_methods() -> Iterator[str]:
    """Lines about every attribution method: its name, where it comes from, what it assumes and costs."""
    for name, entry in methods().items():
        yield f"{name:<34}{entry.title}: {entry.citation}"
        if entry.assumes:
            yield f"{'':<34}assumes: {entry.assumes}"
        yield f"{'':<34}{entry.cost}"
        if entry.gateable:
            yield f"{'':<34}can be gated"


def list_metrics() -> Iterator[str]:
    """Lines about every metric: its name, where it comes from, its direction and range, what it assumes and costs."""
    for name, entry in metrics().items():
        yield f"{name:<34}{entry.title}: {entry.citation}"
        yield f"{'':<34}{entry.definition} {entry.direction}; {entry.quantity}"
        yield f"{'':<34}assumes: {entry.assumes}"
        yield f"{'':<34}forward passes: {entry.passes}"


LISTS = {"methods": list_methods, "metrics": list_metrics}


def explain(arguments: argparse.Namespace) -> None:
    """``fgg explain``: print the explanations, write the picture."""
    os.environ.setdefault("WANDB_MODE", "disabled")  # sae-lens imports wandb
    import torch

    from fgg.attribution.gate import Gate
    from fgg.explain import explained_model as source
    from fgg.explain import explanation as room
    from fgg.models.device import JOB_THREADS, resolve

    torch.set_num_threads(JOB_THREADS)
    warnings.simplefilter("ignore", MeaninglessGate)
    room.check_output(arguments.output, len(arguments.images))
    subject = _subject(arguments, resolve(arguments.device))
    target = source.class_index(subject, arguments.target)
    pictures = [source.read_picture(subject, name) for name in arguments.images]
    method, gate, saes, weak = arguments.method, None, {}, []
    if method == GATED:
        method = "transmm"
        layers = arguments.layers or tuple(sorted(subject.saes))
        if not layers:
            raise FggError(
                "there is no SAE to gate with; give --sae LAYER=PATH, or --method transmm for the map without"
            )
        gate = Gate(layers, arguments.construction, arguments.clamp_max, arguments.alpha)
        saes = source.load_saes(subject, layers) if CONSTRUCTIONS[gate.construction].needs_sae else {}
        remark = source.degenerate(subject, gate.construction, layers, torch.cat([each.tensor for each in pictures]))
        weak = source.weak_saes(subject, layers) if saes else []
        for warning in filter(None, [remark, *weak]):
            print(f"warning: {warning}", file=sys.stderr)
    elif arguments.layers:
        raise FggError(f"--layers belongs to --method {GATED}; {method} has no gate")
    options = (method, gate, saes, target, arguments.features, arguments.seed)
    found = [room.explain(subject, picture, *options) for picture in pictures]
    title, names = room.headline(method, gate)
    room.draw(found, subject, arguments.output, title, names, arguments.smooth, weak)
    for each in found:
        print(room.words(each, subject.classes))
    print(f"preprocessing: {subject.preparation}")
    print(f"picture: {arguments.output}")


def _subject(arguments: argparse.Namespace, device: torch.device) -> Subject:
    from fgg.explain import explained_model as source

    saes = _saes(arguments.sae)
    if arguments.model is None:
        own = [
            name for name in ("architecture", "kwargs", "preprocess", "classes") if getattr(arguments, name) is not None
        ]
        if own:
            raise FggError(f"--{own[0]} describes a model of your own; give it with --model")
        subject = source.from_dataset(arguments.dataset, arguments.directory, device)
        subject.saes |= saes
        return subject
    if arguments.dataset is not None:
        raise FggError("--dataset and --model exclude each other; --model takes a model of your own")
    classes = None
    if arguments.classes is not None:
        classes = _lines(Path(arguments.classes))
    return source.from_files(
        arguments.model, device, arguments.architecture, arguments.kwargs, arguments.preprocess, classes, saes
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FggError(
            f"--classes {path} cannot be read ({error}); give a text file with a class name per line"
        ) from None


def _saes(entries: list[str]) -> dict[int, Path]:
    found = {}
    for entry in entries:
        layer, sign, path = entry.partition("=")
        if not (sign and layer.isdecimal() and path):
            raise FggError(f"--sae {entry!r}: write LAYER=PATH, such as 2=data/saes/elpv/layer_2")
        found[int(layer)] = Path(path)
    return found


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


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
