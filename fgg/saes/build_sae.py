"""Make the SAE of one layer: ``python -m fgg.saes.build_sae``. Train it, load it, or take a basis; then measure it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import __version__
from fgg.data.load import Split, load_split
from fgg.data.preprocess import Preprocess
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, resolve
from fgg.models.vit import check_layers
from fgg.saes import bases, normalisation, provenance
from fgg.saes.activations import BUFFER_FLOATS, Residuals
from fgg.saes.checkpoint import Checkpoint
from fgg.saes.downstream import downstream
from fgg.saes.held_out import measure_held_out
from fgg.saes.measures import faults, finite, measure
from fgg.saes.place import CHECKED, in_words
from fgg.saes.sae import SAE_FILES, check_sae, load_sae, read_sae
from fgg.saes.saving import save_inference
from fgg.saes.training import TRAINED, train
from fgg.tables import atomic, read_json, write_json

MEASURED_IMAGES = 500
WATCHED_IMAGES = 32  # for a point of the learning curve
SPLIT = "train"  # what SAEs learn from
STATE = "training.pt"  # the state of a training that runs, or was killed
# What the block ``sae.train`` may leave out.
NO_CHANGE = {"flips": False, "shift": 0, "contrast": 0.0}
MEASURED_SEED = 0  # draws the held-out images: the same for all SAEs of a model
DEFAULTS: dict[str, Any] = {"l0": 1.0, "class_token": False, "augment": None, "buffer_tokens": None, "seed": None}
CURVE = ("explained_variance", "l0", "dead_share", "same_prediction", "loss_recovered")


@command
def main(argv: list[str] | None = None) -> None:
    """Read a model's folder and a prepared dataset, and write the SAE's folder."""
    parser = argparse.ArgumentParser(prog="python -m fgg.saes.build_sae", description=__doc__)
    add_arguments(
        parser,
        "model",
        "data",
        "layer",
        settings="JSON: weights, kind, place, train, seed, device",
        output="folder to write",
    )
    parser.add_argument("--like", type=Path, help="metrics.json of an SAE that this one is trained like")
    arguments = parser.parse_args(argv)
    settings = arguments.settings
    if arguments.like is not None:
        settings = {**settings, "train": read_json(arguments.like)["fgg"]["settings"]["train"]}
    # sae-lens imports wandb, which must neither log nor prompt for anything.
    os.environ.setdefault("WANDB_MODE", "disabled")
    torch.set_num_threads(JOB_THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    build(arguments.model, arguments.data, arguments.layer, settings, arguments.output)


@dataclass
class Layer:
    """A layer of a model, whose SAE is made on a dataset.

    Attributes:
        model, preprocess: the model, on its device, and what makes its inputs.
        identity: `fgg.saes.provenance.model_record` of the model.
        data: folder of the prepared images.
        layer: the block at whose end the SAE reads.
        settings: see `build`, with the defaults filled in.
    """

    model: VisionTransformer
    preprocess: Preprocess
    identity: dict[str, str]
    data: Path
    layer: int
    settings: dict[str, Any]
    device: torch.device
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        own = self.settings["train"]["seed"]
        self.seed = self.settings["seed"] if own is None else own

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return read_json(self.data / "dataset.json")["dataset"]

    @property
    def batch(self) -> int | None:
        """Images in a pass of the model; None for what suits the model."""
        return self.settings.get("batch_size")

    def rows(self, split: str, seed: int, max_images: int | None = None, **options: Any) -> Residuals:
        """Residuals of a split's images."""
        file = self.data / f"{split}.parquet"
        return Residuals(
            self.model,
            self.preprocess,
            file,
            self.layer,
            self.device,
            seed,
            max_images=max_images,
            batch=self.batch,
            **options,
        )

    def learnt_from(self) -> Residuals:
        """What the SAE is trained on."""
        own = self.settings["train"]
        floats = own["buffer_tokens"] * self.model.embed_dim if own["buffer_tokens"] else BUFFER_FLOATS
        changes = NO_CHANGE | own["augment"] if own["augment"] else None
        return self.rows(SPLIT, self.seed, prefix=own["class_token"], augmentation=changes, floats=floats)

    def held_out(self, images: int) -> Split:
        """The validation images on which SAEs are measured."""
        return load_split(self.data / "val.parquet", images, MEASURED_SEED)

    def key(self) -> str:
        """Names all that a training depends on, but the code of this package."""
        versions = [__version__, torch.__version__, version("sae-lens"), version("timm")]
        files = [provenance.file_hash(self.data / f"{split}.parquet") for split in (SPLIT, "val")]
        text = json.dumps([self.settings, self.identity, self.layer, files, versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def build(model_folder: Path, data: Path, layer: int, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """Train, load or make the SAE of a layer, measure it on held-out images, and write its folder.

    Args:
        model_folder: folder of the model.
        data: folder of the prepared images.
        layer: the block at whose end the SAE reads.
        settings: ``weights``, ``train``, ``seed`` and ``device``; ``kind`` (default ``trained``) and ``place`` (default
            ``checked``).
        output: the folder to write: the SAE as sae-lens stores it, and ``metrics.json``. While an SAE is trained, the state
            of the training is there too, from which a killed training goes on.

    Returns:
        What ``metrics.json`` holds, without the layer.

    Raises:
        FggError: the SAE cannot be read, trained or written, or does not fit the model and the layer.
    """
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(model_folder, device)
    check_layers(model, (layer,))
    identity = provenance.model_record(record["architecture"], model_folder)
    filled = {**settings, "train": DEFAULTS | settings["train"]}
    own = Layer(model, preprocess, identity, data, layer, filled, device)
    curve: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    if settings["weights"] == "train":
        sae, notes, curve = _made(own, output)
        place = CHECKED
    else:
        sae, notes, place, extra = _loaded(own)
    with tempfile.TemporaryDirectory() as folder:
        # Measure the saved SAE, since the gates will use what is read back.
        save_inference(sae, Path(folder))
        saved = load_sae(folder).to(device)
        held_out = own.held_out(MEASURED_IMAGES)
        measured = measure_held_out(model, preprocess, saved, layer, held_out, MEASURED_SEED, own.batch)
        measured |= {"kind": sae.cfg.metadata.kind, "place": place, "warnings": list(faults(measured)), **extra}
        if curve:
            last = {"tokens": sae.cfg.metadata.tokens_seen, **{name: measured[name] for name in CURVE}}
            measured["learning_curve"] = [*curve, last]
        for note in filter(None, notes):
            print(f"note: layer {layer}: {note}")
        print(
            f"layer {layer}: explained variance {measured['explained_variance']:.3f}, L0 {measured['l0']:.1f} of "
            f"{measured['features']} features, {measured['dead_share']:.1%} dead, on {measured['tokens']} held-out tokens; "
            f"{measured['same_prediction']:.1%} of predictions stay with the reconstruction in place"
        )
        for fault in measured["warnings"]:
            print(f"warning: layer {layer}: {fault}")
        for name in SAE_FILES:
            with atomic(output / name) as temporary:
                shutil.copyfile(Path(folder) / name, temporary)
    write_json(output / "metrics.json", {"layer": layer, **measured}, settings)
    (output / STATE).unlink(missing_ok=True)
    return measured


class Measuring:
    """Measures SAEs of a layer on some validation images, at their patches."""

    def __init__(self, own: Layer, images: int) -> None:
        self._own = own
        self._rows = torch.cat([part.clone() for part in own.rows("val", MEASURED_SEED, images).parts()])
        self._split = own.held_out(images)
        self._known: dict[str, Tensor] = {}

    def __call__(self, sae: Any) -> dict[str, Any]:
        """What JSON holds of an SAE's measurements."""
        own = self._own
        found = measure(sae, self._rows)
        mean = self._rows.mean(0)
        place = (own.model, own.preprocess, sae, own.layer, self._split)
        return finite(found | downstream(*place, mean, own.batch, self._known))


def _made(own: Layer, output: Path) -> tuple[Any, list[str | None], list[dict[str, Any]]]:
    """An SAE of the wanted kind with its provenance; what the log says of it; and its learning curve."""
    kind = own.settings.get("kind", TRAINED)
    training: dict[str, Any] = {"kind": kind, "normalisation": "none", "tokens_seen": 0, "class_token": False}
    notes: list[str | None] = [bases.CANCELS] * (kind in (bases.PCA, bases.IDENTITY))
    curve: list[dict[str, Any]] = []
    with_class = own.settings["train"]["class_token"]
    if kind == bases.IDENTITY:
        sae = bases.identity(own.model.embed_dim)
    elif kind == bases.PCA:
        rows = own.learnt_from()
        sae = bases.pca(rows.parts()).to(own.device)
        training |= {"tokens_seen": len(rows), "class_token": with_class}
    else:
        checkpoint = Checkpoint(output / STATE, own.key())
        measuring = Measuring(own, WATCHED_IMAGES)

        def watch(sae: Any) -> dict[str, Any]:
            found = measuring(sae)
            return {name: found[name] for name in CURVE}

        sae = train(own.learnt_from(), own.settings["train"], own.seed + own.layer, kind, checkpoint, watch)
        found = sae.cfg.metadata
        training |= {"normalisation": found.normalisation, "tokens_seen": found.tokens_seen, "class_token": with_class}
        curve = [{key: value for key, value in point.items() if key != "step"} for point in checkpoint.points]
    training |= {"dataset": own.dataset, "split": SPLIT, "seed": own.seed}
    provenance.stamp(sae, own.layer, CHECKED, own.identity, training)
    return sae, notes, curve


def _loaded(own: Layer) -> tuple[Any, list[str | None], str, dict[str, Any]]:
    """The SAE that the settings name; what the log says of it; whether its place is known; more for metrics.json."""
    layer, settings = own.layer, own.settings
    sae = read_sae(settings["weights"].replace("{layer}", str(layer)))
    place = check_sae(sae, own.model, layer, own.identity, settings.get("place", CHECKED), folded=False)
    metadata = provenance.metadata_of(sae)
    notes = [in_words(metadata, layer, place), provenance.other_dataset(metadata, own.dataset)]
    extra = {}
    unfolded = normalisation.unfolded(sae)
    if unfolded == normalisation.SCALED:
        batch = settings["train"]["batch_size"]
        factor = extra["scaling_factor"] = normalisation.fold_estimated(sae, own.learnt_from().parts(), batch)
        notes.append(
            f"the SAE's activations are scaled by {factor:.6g}, estimated on the training images and folded in"
        )
    elif unfolded in normalisation.CENTRINGS:
        scale = normalisation.fold_centring(sae, own.learnt_from().parts)
        extra["scaling_factor"] = 1 / scale
        notes.append(
            f"the SAE's activations are centred and divided by {scale:.6g}, estimated on the training images and folded in"
        )
    normalisation.check_folded(sae, f"sae.weights: the SAE for layer {layer}")
    provenance.stamp(sae, layer, place, own.identity)
    return sae, notes, place, extra


if __name__ == "__main__":
    sys.exit(main())
