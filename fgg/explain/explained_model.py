"""The input of ``fgg explain``: a model with its SAEs, from a trained dataset or from files, and images for it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import degeneracy
from fgg.comparison.quality import LEVELS, folder_warning
from fgg.data.images import decode
from fgg.data.load import Split, load_split
from fgg.data.preprocess import Preprocess
from fgg.data.preprocess_words import preprocess_words
from fgg.errors import FggError
from fgg.models import model_files
from fgg.models.checkpoints import read
from fgg.models.device import images_per_batch
from fgg.models.hugging_face import described
from fgg.models.image_records import said_by_weights
from fgg.models.image_settings import derive
from fgg.models.layer_diagnosis import diagnose
from fgg.models.vit import check_layers, load_model
from fgg.saes.provenance import model_record
from fgg.saes.sae import load_for

MODELS, SAES, PREPARED = Path("data", "models"), Path("data", "saes"), Path("data", "prepared")
SPLITS = ("test", "val", "train")
NAMES_SHOWN = 20
KEYS = tuple(each.name for each in fields(Preprocess))


@dataclass
class Subject:
    """A model, and what is known about it.

    Attributes:
        preprocess: the preprocessing from a picture to the model's input.
        classes: class names, in the model's order.
        saes: layer -> folder of its SAE.
        status: layer -> what is known about residual x gradient there; empty where it has not been measured.
        prepared: folder of the dataset's images, if there is one.
        identity: `fgg.saes.provenance.model_record` of the model; None if it is not in a folder of fgg's.
        origins: key of the preprocessing -> where its value comes from.
        splits: file -> split of the dataset, as far as it has been read; None where there is none.
    """

    model: VisionTransformer
    preprocess: Preprocess
    classes: list[str]
    saes: dict[int, Path]
    status: dict[int, str]
    prepared: Path | None = None
    identity: dict[str, str] | None = None
    origins: dict[str, str] = field(default_factory=dict)
    splits: dict[Path, Split | None] = field(default_factory=dict)

    @property
    def preparation(self) -> str:
        """How images are prepared, and where each setting comes from, in words."""
        return preprocess_words(self.preprocess.to_dict(), self.origins)


@dataclass
class Picture:
    """An image: its name, the upright image, the model's input (1, C, H, W), and its label if known."""

    name: str
    image: Image.Image
    tensor: Tensor
    label: str | None = field(default=None)


def from_dataset(name: str | None, directory: Path, device: torch.device) -> Subject:
    """Load the model and SAEs that the workflow made for a dataset; None takes the only dataset.

    Raises:
        FggError: the directory has no such trained dataset, or several of them and ``name`` is None.
    """
    trained = sorted(path.parent.name for path in (directory / MODELS).glob("*/model.json"))
    if name is None and len(trained) == 1:
        name = trained[0]
    if name not in trained:
        wanted = f"no trained dataset {name!r}" if name else f"{len(trained) or 'no'} trained datasets"
        known = f"; there: {', '.join(trained)}, choose with --dataset" if trained else ""
        raise FggError(
            f"{wanted} in {(directory / MODELS).resolve()}{known}. Train one with `make results` or `snakemake --cores 8 "
            "results/summary.csv`, or say with --directory where data/ lies, or give --model"
        )
    model, preprocess, record = model_files.load(directory / MODELS / name, device)
    saes = {int(path.name.removeprefix("layer_")): path for path in (directory / SAES / name).glob("layer_*")}
    prepared = directory / PREPARED / name
    identity = model_record(record["architecture"], directory / MODELS / name)
    status = degeneracy.measured(record["layers"])
    origins = record.get("preprocess_from", {})
    return Subject(model, preprocess, record["classes"], saes, status, prepared, identity, origins)


def from_files(
    model: str,
    device: torch.device,
    architecture: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    saes: Mapping[int, Path] | None = None,
) -> Subject:
    """Load a model from a folder that fgg wrote, or from weights and an architecture.

    Args:
        model: folder with model.json, weights (a file, or a folder of transformers), or ``pretrained``.
        architecture: its name in timm; needed with weights.
        kwargs: arguments for timm, as in the configuration's ``model.kwargs``.
        preprocess: settings of `Preprocess` that differ from those that are written beside the weights, or of timm's for
            the architecture.
        classes: class names; None takes them, or their number, from the weights.
        saes: layer -> path of its SAE.

    Raises:
        FggError: files are missing or do not fit together.
    """
    found = dict(saes or {})
    if (Path(model) / "model.json").is_file():
        loaded, made, record = model_files.load(model, device)
        identity = model_record(record["architecture"], Path(model))
        status = degeneracy.measured(record["layers"])
        names, origins = list(classes or record["classes"]), record.get("preprocess_from", {})
        return Subject(loaded, made, names, found, status, identity=identity, origins=origins)
    if architecture is None:
        raise FggError(
            f"--model {model} is no folder with a model.json; for a file of weights, or `pretrained`, say what model "
            "it is with --architecture, such as vit_base_patch16_224"
        )
    outputs = len(classes) if classes else None
    if outputs is None and model != "pretrained":
        state = read(model)
        outputs = len(state["head.weight"]) if "head.weight" in state else None
    loaded = load_model(architecture, kwargs, model, num_classes=outputs)
    named = loaded.pretrained_cfg.get("label_names") or ()
    if len(named) != loaded.num_classes:
        named = [f"class {index}" for index in range(loaded.num_classes)]
    made, origins = _preprocess(loaded, preprocess or {}, model)
    return Subject(loaded.to(device), made, list(classes or named), found, {}, origins=origins)


def _preprocess(
    model: VisionTransformer, settings: Mapping[str, Any], weights: str
) -> tuple[Preprocess, dict[str, str]]:
    """The preprocessing, and where each of its keys comes from."""
    unknown = [key for key in settings if key not in KEYS]
    if unknown:
        raise FggError(f"--preprocess: unknown {', '.join(unknown)}; the keys are {', '.join(KEYS)}")
    known = None if weights == "pretrained" else described(weights)
    given = {"resize" if key == "size" else key: value for key, value in settings.items()}
    derived = derive(given, model, said_by_weights({"weights": weights}, model, known))
    if derived.preprocess.mean is None or derived.preprocess.std is None:
        raise FggError(
            f"--preprocess: the channels {derived.preprocess.channels!r} need mean and std, which the weights do not name; "
            "give those of the model's training"
        )
    return derived.preprocess, derived.origins


def load_saes(subject: Subject, layers: Sequence[int]) -> dict[int, Any]:
    """Load the SAEs of these layers on the model's device.

    Raises:
        FggError: one is missing, or it was made for another place, width, or model.
    """
    check_layers(subject.model, tuple(layers))
    found = {}
    for layer in layers:
        if layer not in subject.saes:
            have = ", ".join(map(str, sorted(subject.saes))) or "none"
            raise FggError(
                f"no SAE for layer {layer} (there are: {have}); choose other --layers, or give --sae {layer}=PATH"
            )
        found[layer] = load_for(subject.saes[layer], subject.model, layer, subject.identity)
    return found


def weak_saes(subject: Subject, layers: Sequence[int]) -> list[str]:
    """Warnings about the SAEs of these layers, if they were measured, by the default levels of ``quality``."""
    found = (folder_warning(subject.saes[layer], layer, LEVELS) for layer in layers if layer in subject.saes)
    return [warning for warning in found if warning]


def read_picture(subject: Subject, name: str) -> Picture:
    """Read an image file, or an image of the dataset by its image_id, and preprocess it like the model's images.

    Raises:
        FggError: there is neither such a file nor such an image, or the file is not an image.
    """
    path = Path(name)
    device = next(subject.model.parameters()).device
    if path.is_file():
        image = decode(path.read_bytes(), name)
        return Picture(path.name, image, subject.preprocess(image)[None].to(device))
    for split in SPLITS if subject.prepared else ():
        file = subject.prepared / f"{split}.parquet"
        if file not in subject.splits:
            subject.splits[file] = load_split(file) if file.is_file() else None
        images = subject.splits[file]
        if images is not None and name in images.image_ids:
            place = images.image_ids.index(name)
            tensor = images.tensors(subject.preprocess, [place]).to(device)
            return Picture(name, images.picture(place), tensor, images.label_names[place])
    known = " and no image_id of the dataset" if subject.prepared else ""
    raise FggError(f"{name} is no file{known}; check the path")


def class_index(subject: Subject, wanted: str | None) -> int | None:
    """The index of a class given by name or index; None gives None. Raises FggError for an unknown class."""
    if wanted is None:
        return None
    if wanted in subject.classes:
        return subject.classes.index(wanted)
    folded = [name.casefold() for name in subject.classes]
    if folded.count(wanted.casefold()) == 1:
        return folded.index(wanted.casefold())
    if wanted.isdecimal() and int(wanted) < len(subject.classes):
        return int(wanted)
    near = difflib.get_close_matches(wanted, subject.classes, NAMES_SHOWN) or subject.classes[:NAMES_SHOWN]
    more = ", …" if len(near) < len(subject.classes) else ""
    raise FggError(
        f"--class {wanted!r} is unknown; choose from {', '.join(near)}{more}, or an index from 0 to {len(subject.classes) - 1}"
    )


def degenerate(
    subject: Subject, construction: str, layers: Sequence[int], first: Callable[[int], Sequence[Picture]]
) -> str:
    """What is degenerate about a gate, in the words of `fgg.degeneracy.note`; measured on the first images if unknown.

    Args:
        first: gives up to so many of the first images.
    """
    if not subject.status and (pictures := first(images_per_batch(subject.model))):
        subject.status = degeneracy.measured(diagnose(subject.model, torch.cat([each.tensor for each in pictures])))
    return degeneracy.note({"gate": {"construction": construction, "layers": layers}}, subject.status)
