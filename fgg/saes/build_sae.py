"""Make the SAE of one layer: ``python -m fgg.saes.build_sae``. Train it with sae-lens, or load it; then measure it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import JOB_THREADS, images_per_batch, resolve
from fgg.models.vit import check_layers
from fgg.progress import Progress, batches, progress
from fgg.saes.downstream import downstream
from fgg.saes.sae import SAE_FILES, check_sae, load_sae
from fgg.tables import atomic, write_json

# Residuals are kept in memory: 2**28 floats are a gigabyte.
MOST_FLOATS = 2**28
MEASURED_IMAGES = 500
MOST_CODES = 2**26  # in memory at once, while an SAE is measured
DECAY = 1 / 2  # share of the steps, at the end, with a falling learning rate
WARMUP = 1 / 12
DEAD_AFTER = 1 / 20  # share of the steps without an activation after which a feature is revived


@command
def main(argv: list[str] | None = None) -> None:
    """Read a model's folder and a prepared dataset, and write the SAE's folder."""
    parser = argparse.ArgumentParser(prog="python -m fgg.saes.build_sae", description=__doc__)
    add_arguments(
        parser, "model", "data", "layer", settings="JSON: weights, train, seed, device", output="folder to write"
    )
    arguments = parser.parse_args(argv)
    # sae-lens imports wandb, which must neither log nor prompt for anything.
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(JOB_THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    build(arguments.model, arguments.data, arguments.layer, arguments.settings, arguments.output)


def build(model_folder: Path, data: Path, layer: int, settings: dict[str, Any], output: Path) -> dict[str, float]:
    """Train or load the SAE of a layer, measure it on held-out images, and write its folder."""
    device = resolve(settings["device"])
    model, preprocess, _ = model_files.load(model_folder, device)
    check_layers(model, (layer,))
    seed = settings["seed"]
    if settings["weights"] == "train":
        rows = residuals(model, preprocess, data / "train.parquet", layer, device, seed)
        sae = train(rows, settings["train"], seed + layer)
        del rows
    else:
        sae = load_sae(settings["weights"].replace("{layer}", str(layer)))
        check_sae(sae, model, layer)
    held_out = residuals(model, preprocess, data / "val.parquet", layer, device, seed, MEASURED_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        # Measure the saved SAE, since the gates will use what is read back.
        save_inference(sae, Path(folder))
        saved = load_sae(folder).to(device)
        measured = measure(saved, held_out)
        validation = load_split(data / "val.parquet", MEASURED_IMAGES, seed)
        measured |= finite(downstream(model, preprocess, saved, layer, validation, held_out.mean(0)))
        print(
            f"layer {layer}: explained variance {measured['explained_variance']:.3f}, L0 {measured['l0']:.1f} of "
            f"{measured['features']} features, {measured['dead_share']:.1%} dead, on {len(held_out)} held-out tokens; "
            f"{measured['same_prediction']:.1%} of predictions stay with the reconstruction in place"
        )
        for name in SAE_FILES:
            with atomic(output / name) as temporary:
                shutil.copyfile(Path(folder) / name, temporary)
    write_json(output / "metrics.json", {"layer": layer, **measured}, settings)
    return measured


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


def train(rows: Tensor, settings: dict[str, Any], seed: int) -> Any:
    """Train a sae-lens SAE on rows (n, D); normalisation by a constant is folded into its weights.

    Raises:
        FggError: there are fewer rows than one batch, or k is larger than the number of features.
    """
    from sae_lens import (
        LoggingConfig,
        SAETrainer,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig

    width, batch = rows.shape[1], min(settings["batch_size"], len(rows))
    common = {
        "d_in": width,
        "d_sae": width * settings["expansion"],
        "normalize_activations": settings["normalize"],
        "device": str(rows.device),
        "dtype": "float32",
    }
    if settings["architecture"] == "topk" and settings["k"] > common["d_sae"]:
        raise FggError(f"sae.train.k: {settings['k']} is more than the {common['d_sae']} features")
    steps = max(1, settings["tokens"] // batch)
    warmup = int(WARMUP * steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)  # sae-lens draws its initial weights from the global generator
        if settings["architecture"] == "topk":
            sae: Any = TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=settings["k"]))
        else:
            sae = StandardTrainingSAE(
                StandardTrainingSAEConfig(**common, l1_coefficient=settings["l1"], l1_warm_up_steps=warmup)
            )
        if settings["normalize"] in ("none", "expected_average_only_in"):
            # Start at the mean, which the features then need not explain.
            norm = rows.norm(dim=1).mean() / width**0.5 if settings["normalize"] != "none" else 1.0
            sae.b_dec.data.copy_(rows.mean(0) / norm)
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=steps * batch,
                train_batch_size_samples=batch,
                lr=settings["learning_rate"],
                lr_end=settings["learning_rate"] / 100,
                lr_warm_up_steps=warmup,
                lr_decay_steps=int(DECAY * steps),
                device=str(rows.device),
                dead_feature_window=max(1, int(DEAD_AFTER * steps)),
                feature_sampling_window=steps,
                n_batches_for_norm_estimate=50,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=sae,
            data_provider=shuffled(rows, batch, generator),
        )
        with progress([], steps * batch, "SAE training", "token") as bar, _without_bar():
            trainer.data_provider = _counted(trainer.data_provider, bar)
            trained = trainer.fit().eval()
    if not all(tensor.isfinite().all() for tensor in trained.state_dict().values()):
        raise FggError("SAE training diverged; lower sae.train.learning_rate")
    return trained


def shuffled(rows: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of rows, reshuffled each epoch; an incomplete last batch is left out."""
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for index in order[: len(rows) // batch * batch].split(batch):
            yield rows[index.to(rows.device)]


def _counted(rows: Iterator[Tensor], bar: Progress) -> Iterator[Tensor]:
    for part in rows:
        bar.update(min(len(part), bar.total - bar.done))  # sae-lens draws extra batches to estimate the norm
        yield part


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Keep sae-lens from drawing bars of its own, which would fill a log with carriage returns."""
    from sae_lens.training import activation_scaler, sae_trainer

    modules: list[Any] = [activation_scaler, sae_trainer]
    theirs = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = functools.partial(module.tqdm, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, theirs, strict=True):
            module.tqdm = bar


def save_inference(sae: Any, folder: Path) -> None:
    """Write the SAE as a sae-lens folder, which `SAE.load_from_disk` reads.

    Raises:
        FggError: such a folder cannot store the activation.
    """
    if isinstance(sae.activation_fn, torch.nn.Sequential):
        raise FggError("sae.weights: a sae-lens folder cannot store a tanh-relu activation; use the SAE from Python")
    device = str(sae.device)
    sae.to("cpu")
    try:
        if hasattr(sae, "save_inference_model"):
            sae.save_inference_model(folder)
        else:
            sae.save_model(folder)
    except SafetensorError as error:
        raise FggError(f"the SAE cannot be written to {folder} ({error}); check whether the disk is full") from None
    # sae-lens writes the keys in the order of a set, which differs from process to process.
    config = json.loads((folder / SAE_FILES[0]).read_text(encoding="utf-8"))
    (folder / SAE_FILES[0]).write_text(json.dumps(config, sort_keys=True), encoding="utf-8")
    sae.to(device)


def finite(measured: dict[str, float]) -> dict[str, float | None]:
    """Measurements as JSON holds them: None for what is undefined."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


@torch.no_grad()
def measure(sae: Any, rows: Tensor, chunk: int | None = None) -> dict[str, Any]:
    """Explained variance, mean L0 and share of dead features on rows (n, D).

    An SAE with a large expansion has 50,000 codes per row, so the default chunk depends on their number.
    """
    chunk = chunk or max(1, min(8192, MOST_CODES // sae.W_dec.shape[0]))
    mean = rows.double().mean(0)
    residual = total = 0.0
    active = torch.zeros(sae.W_dec.shape[0], dtype=torch.float64, device=rows.device)
    for part in rows.split(chunk):
        codes = sae.encode(part)
        residual += float((part - sae.decode(codes)).double().square().sum())
        total += float((part.double() - mean).square().sum())
        active += (codes > 0).double().sum(0)
    return {
        "explained_variance": 1 - residual / total,
        "l0": float(active.sum()) / len(rows),
        "dead_share": float((active == 0).double().mean()),
        "features": len(active),
        "width": rows.shape[1],
        "tokens": len(rows),
    }


if __name__ == "__main__":
    sys.exit(main())
