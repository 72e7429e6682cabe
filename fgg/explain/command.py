"""``fgg explain``: explain images, print what was found, and write a picture and other files."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgg.degeneracy import MeaninglessGate
from fgg.errors import FggError
from fgg.explain import options
from fgg.explain.options import GATED

if TYPE_CHECKING:
    import torch

    from fgg.explain.explained_model import Subject
    from fgg.explain.explanation import Settings
    from fgg.explain.given_images import Listed, Pictures


def add_explain(parts: Any) -> None:
    """Add the command to the parser of ``fgg``."""
    part = parts.add_parser(
        "explain", help="explain images: prediction, SAE features, and a picture of the maps", description=options.ABOUT,
        epilog=options.EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_options(part)


def explain(arguments: argparse.Namespace) -> None:
    """Print the explanations, write the picture and the other files.

    Raises:
        FggError: wrong options or files, before anything is computed; or, after everything else is written, images of a
            folder that could not be read.
    """
    options.check(arguments)
    os.environ.setdefault("WANDB_MODE", "disabled")  # sae-lens imports wandb
    import torch

    from fgg.explain.given_images import Pictures, file_names, listed, unreadable_message
    from fgg.explain.outcome import Outcome
    from fgg.models.device import JOB_THREADS, resolve

    given = listed(arguments.images)
    _check_pictures(arguments, given)
    named = [option for option in options.outputs(arguments) if option != "--output" or not arguments.output.suffix]
    files = file_names(given.images, named[0]) if named else {}
    torch.set_num_threads(JOB_THREADS)
    warnings.simplefilter("ignore", MeaninglessGate)
    subject = _subject(arguments, resolve(arguments.device))
    settings = _settings(arguments, subject)
    faults: list[str] = []
    pictures = Pictures(subject, given.images, faults)
    weak = _warned(subject, settings, pictures)
    outcome = Outcome(arguments, subject, settings, files, weak)
    for picture in pictures:
        outcome.add(picture)
    if outcome.records:
        outcome.write(given.others, faults)
    if faults:
        raise FggError(unreadable_message(faults, len(given.images)))


def _check_pictures(arguments: argparse.Namespace, given: Listed) -> None:
    """Raise FggError if the picture cannot be written."""
    if arguments.no_picture or not arguments.output.suffix:
        return
    from fgg.explain.drawing import MOST_ROWS, check_format

    check_format(arguments.output)
    if len(given.images) > MOST_ROWS:
        raise FggError(
            f"{len(given.images)} images are too many for one picture; give at most {MOST_ROWS} at once, or --output FOLDER "
            "for a picture per image, or --no-picture"
        )
    for each in given.images:
        if each.in_folder and Path(each.source).resolve() == arguments.output.resolve():
            raise FggError(f"--output {arguments.output} would replace an image of the folder; give another name")


def _settings(arguments: argparse.Namespace, subject: Subject) -> Settings:
    """What is computed for every image. Raises FggError for unknown classes, and layers without SAE."""
    from fgg.attribution.gate import Gate
    from fgg.explain import explained_model as source
    from fgg.explain.explanation import Settings

    gate, saes = None, {}
    names = options.chosen_methods(arguments.method)
    if GATED in names:
        layers = arguments.layers or tuple(sorted(subject.saes))
        if not layers:
            raise FggError(
                "there is no SAE to gate with; give --sae LAYER=PATH, or --method transmm for the map without"
            )
        gate = Gate(layers, arguments.construction, arguments.clamp_max, arguments.alpha)
        saes = source.load_saes(subject, layers) if gate.needs_sae else {}
    return Settings(
        names, gate, saes, source.class_index(subject, arguments.target), arguments.features, arguments.remove,
        options.chosen_fills(arguments.fill), arguments.draws, arguments.seed, arguments.patch_features is not None,
    )  # fmt: skip


def _warned(subject: Subject, settings: Settings, pictures: Pictures) -> list[str]:
    """Warn of layers where the gate means nothing, and of weak SAEs; the latter are returned."""
    from fgg.explain import explained_model as source

    if settings.gate is None:
        return []
    remark = source.degenerate(subject, settings.gate.construction, settings.gate.layers, pictures.first)
    weak = source.weak_saes(subject, settings.gate.layers) if settings.saes else []
    for warning in filter(None, [remark, *weak]):
        print(f"warning: {warning}", file=sys.stderr)
    return weak


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
