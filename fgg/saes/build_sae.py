"""Make the SAE of one layer: ``python -m fgg.saes.build_sae``. Train it, load it, or take a basis; then measure it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import JOB_THREADS, images_per_batch, resolve
from fgg.models.vit import check_layers
from fgg.progress import batches
from fgg.saes import bases, normalisation, provenance
from fgg.saes.downstream import downstream
from fgg.saes.measures import faults, finite, measure
from fgg.saes.place import CHECKED, in_words
from fgg.saes.sae import SAE_FILES, check_sae, load_sae, read_sae
from fgg.saes.saving import save_inference
from fgg.saes.training import TRAINED, train
from fgg.tables import atomic, read_json, write_json

# Residuals are kept in memory: 2**28 floats are a gigabyte.
MOST_FLOATS = 2**28
MEASURED_IMAGES = 500
SPLIT = "train"  # what SAEs learn from


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
    arguments = parser.parse_args(argv)
    # sae-lens imports wandb, which must neither log nor prompt for anything.
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(JOB_THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    build(arguments.model, arguments.data, arguments.layer, arguments.settings, arguments.output)


def build(model_folder: Path, data: Path, layer: int, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """Train, load or make the SAE of a layer, measure it on held-out images, and write its folder.

    Args:
        model_folder: folder of the model.
        data: folder of the prepared images.
        layer: the block at whose end the SAE reads.
        settings: ``weights``, ``train``, ``seed`` and ``device``; ``kind`` (default ``trained``) and ``place`` (default
            ``checked``).
        output: the folder to write: the SAE as sae-lens stores it, and ``metrics.json``.

    Returns:
        What ``metrics.json`` holds, without the layer.

    Raises:
        FggError: the SAE cannot be read, trained or written, or does not fit the model and the layer.
    """
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(model_folder, device)
    check_layers(model, (layer,))
    identity = provenance.model_record(record["architecture"], model_folder)
    seed, dataset = settings["seed"], read_json(data / "dataset.json")["dataset"]

    def learnt_from() -> Tensor:
        return residuals(model, preprocess, data / f"{SPLIT}.parquet", layer, device, seed)

    notes: list[str | None] = []
    place, factor = CHECKED, None
    if settings["weights"] == "train":
        sae, training = _make(learnt_from, model.embed_dim, layer, settings)
        notes += [bases.CANCELS] * (training["kind"] in (bases.PCA, bases.IDENTITY))
        provenance.stamp(sae, layer, place, identity, training | {"dataset": dataset, "split": SPLIT, "seed": seed})
    else:
        sae = read_sae(settings["weights"].replace("{layer}", str(layer)))
        place = check_sae(sae, model, layer, identity, settings.get("place", CHECKED), folded=False)
        metadata = provenance.metadata_of(sae)
        notes += [in_words(metadata, layer, place), provenance.other_dataset(metadata, dataset)]
        if normalisation.unfolded(sae) == normalisation.SCALED:
            factor = normalisation.fold_estimated(sae, learnt_from(), settings["train"]["batch_size"])
            notes.append(
                f"the SAE's activations are scaled by {factor:.6g}, estimated on the training images and folded in"
            )
        normalisation.check_folded(sae, f"sae.weights: the SAE for layer {layer}")
        provenance.stamp(sae, layer, place, identity)
    held_out = residuals(model, preprocess, data / "val.parquet", layer, device, seed, MEASURED_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        # Measure the saved SAE, since the gates will use what is read back.
        save_inference(sae, Path(folder))
        saved = load_sae(folder).to(device)
        measured = measure(saved, held_out)
        validation = load_split(data / "val.parquet", MEASURED_IMAGES, seed)
        measured |= finite(downstream(model, preprocess, saved, layer, validation, held_out.mean(0)))
        measured |= {"kind": sae.cfg.metadata.kind, "place": place, "warnings": list(faults(measured))}
        if factor is not None:
            measured["scaling_factor"] = factor
        for note in filter(None, notes):
            print(f"note: layer {layer}: {note}")
        print(
            f"layer {layer}: explained variance {measured['explained_variance']:.3f}, L0 {measured['l0']:.1f} of "
            f"{measured['features']} features, {measured['dead_share']:.1%} dead, on {len(held_out)} held-out tokens; "
            f"{measured['same_prediction']:.1%} of predictions stay with the reconstruction in place"
        )
        for fault in measured["warnings"]:
            print(f"warning: layer {layer}: {fault}")
        for name in SAE_FILES:
            with atomic(output / name) as temporary:
                shutil.copyfile(Path(folder) / name, temporary)
    write_json(output / "metrics.json", {"layer": layer, **measured}, settings)
    return measured


def _make(learnt_from: Any, width: int, layer: int, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An SAE of the wanted kind, and what its provenance says of its training; ``learnt_from`` gives the residuals."""
    kind = settings.get("kind", TRAINED)
    training: dict[str, Any] = {"kind": kind, "normalisation": "none", "tokens_seen": 0}
    if kind == bases.IDENTITY:
        return bases.identity(width), training
    rows = learnt_from()
    if kind == bases.PCA:
        return bases.pca(rows), training | {"tokens_seen": len(rows)}
    sae = train(rows, settings["train"], settings["seed"] + layer, kind)
    found = sae.cfg.metadata
    return sae, training | {"normalisation": found.normalisation, "tokens_seen": found.tokens_seen}


def residuals(
    model: VisionTransformer,
    preprocess: Preprocess,
    images: Path,
    layer: int,
    device: torch.device,
    seed: int,
    max_images: int | None = None,
) -> Tensor:
    """The residual stream at the patches after a layer, float32 (images x N, D), of as many images as memory allows."""
    tokens = model.patch_embed.num_patches
    fitting = max(1, MOST_FLOATS // (tokens * model.embed_dim))
    split = load_split(images, min(fitting, max_images or fitting), seed)
    found = []
    for part in batches(len(split), images_per_batch(model), f"residuals of layer {layer}"):
        seen = capture(model, split.tensors(preprocess, part).to(device), layers=[layer], gradients=[])
        found.append(seen.residuals[layer][:, model.num_prefix_tokens :].flatten(0, 1))
    return torch.cat(found)


if __name__ == "__main__":
    sys.exit(main())
