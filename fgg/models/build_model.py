"""Make a dataset's model: ``python -m fgg.models.build_model``.

Train it, load it, or give it a text head; then measure it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import Split, load_split
from fgg.data.preprocess import GREY_FIRST, Preprocess, statistics
from fgg.data.preprocess_words import preprocess_words
from fgg.errors import FggError, names
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files, zero_shot
from fgg.models.device import TRAINING_THREADS, resolve
from fgg.models.hugging_face import Described, described
from fgg.models.image_records import ASSUMED, note, said_by_weights
from fgg.models.image_settings import GIVEN, Derived, derive
from fgg.models.layer_diagnosis import diagnose
from fgg.models.training import predict, train
from fgg.models.vit import NORM_EPS, load_model, with_config
from fgg.progress import batches
from fgg.tables import read_json

# Enough to measure an accuracy to half a percent and to fit a linear baseline.
MOST_IMAGES = 5000
DIAGNOSED_IMAGES = 16
LOOKED_AT = 256  # images in memory at once
SPLITS = ("train", "val", "test")
PLANTED = "planted"  # a source whose images have their final size
BASELINE_SIDE = 20  # pixels; 40 gives the same accuracy and takes much longer
BASELINE_C = (1e-4, 1e-3, 1e-2)  # chosen on the validation split


@command
def main(argv: list[str] | None = None) -> None:
    """Read a prepared dataset and write the model's folder."""
    parser = argparse.ArgumentParser(prog="python -m fgg.models.build_model", description=__doc__)
    add_arguments(
        parser,
        "data",
        settings="JSON: model, preprocess, seed, device",
        output="folder for model.safetensors and model.json",
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(TRAINING_THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    build(arguments.data, arguments.settings, arguments.output)


def build(data: Path, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """Train or load the model, measure it, and write its folder; returns its record."""
    options, known = _with_folder(settings["model"])
    device = resolve(settings["device"])
    dataset = read_json(data / "dataset.json")
    classes = dataset["classes"]
    everything = load_split(data / "train.parquet")
    shape = load_model(options["architecture"], options["kwargs"], num_classes=len(classes))
    if known:
        with_config(shape, known)
    said = said_by_weights(options, shape, known, whole=dataset.get("source") == PLANTED)
    derived = derive(settings["preprocess"], shape, said)
    training = options["weights"] == "train" and not options["zero_shot"]
    images = everything.pixels(derived.preprocess, threads=TRAINING_THREADS) if training else None
    derived = _with_statistics(derived, everything, images)
    preprocess = derived.preprocess
    history: list[dict[str, float]] = []
    head: dict[str, Any] | None = None
    if images is None:
        model, head = _load(options, classes)
        if known and known.labels:
            order_classes(model, known.labels, classes)
        model = model.to(device)
    else:
        for image in images:  # in place: they may fill half of the memory
            image.copy_(preprocess.standardised(image))
        labelled = images.to(device), torch.from_numpy(everything.labels).to(device)
        model, history = train(
            options["architecture"], options["kwargs"], *labelled, len(classes), options["train"], settings["seed"]
        )
        del labelled
    model.eval()
    splits = {name: load_split(data / f"{name}.parquet", MOST_IMAGES, settings["seed"]) for name in SPLITS}
    at_hand = {"train": images} if len(splits["train"]) == len(everything) else {}
    seen = {name: look(model, split, preprocess, device, at_hand.get(name)) for name, split in splits.items()}
    record = {
        "architecture": options["architecture"],
        "kwargs": {**options["kwargs"], **_norm_eps(model, shape)},
        "weights": options["weights"],
        "classes": classes,
        "preprocess": preprocess.to_dict(),
        "preprocess_from": derived.origins,
        **({"zero_shot": head} if head else {}),
        "training_mean": seen["train"].means.mean(0).tolist(),
        "accuracy": measure(seen),
        "layers": diagnose(model, splits["val"].tensors(preprocess, slice(0, DIAGNOSED_IMAGES)).to(device)),
        "training": history,
    }
    print(f"preprocessing: {preprocess_words(record['preprocess'], derived.origins)}")
    if ASSUMED in derived.origins.values():
        note(f"mean and std are {ASSUMED}; compare them with the training of the weights, or give them")
    report(record)
    model_files.save(output, model, record, settings)
    return record


def _with_folder(options: dict[str, Any]) -> tuple[dict[str, Any], Described | None]:
    """The settings ``model`` with what the folder of its weights says, and that."""
    if options["weights"] in ("train", "pretrained") or options["zero_shot"]:
        return options, None
    known = described(options["weights"])
    return (options, None) if known is None else ({**options, "kwargs": known.merged(options["kwargs"])}, known)


def _norm_eps(model: VisionTransformer, shape: VisionTransformer) -> dict[str, float]:
    """The argument that gives the model's layer norms their epsilon, if it is not the architecture's."""
    own, usual = ({m.eps for m in each.modules() if isinstance(m, torch.nn.LayerNorm)} for each in (model, shape))
    return {NORM_EPS: own.pop()} if own != usual and len(own) == 1 else {}


def _with_statistics(derived: Derived, split: Split, images: Tensor | None) -> Derived:
    """Mean and std measured on the training images where they are unknown, and what colours these images have.

    Args:
        split: the training split.
        images: its pixels, if a model is trained on them.
    """
    preprocess, count = derived.preprocess, f"the {len(split)} training images"
    if images is None and (preprocess.mean is None or preprocess.std is None):
        note(
            f"mean and std are those of {count}, since the weights name none for the channels {preprocess.channels}; compare "
            "them with the training of the weights, or give them"
        )
    elif images is not None and derived.origins["channels"] != GIVEN:
        colour = split.coloured() if len(images[0]) == 1 else sum(not (image == image[:1]).all() for image in images)
        told = f"{derived.origins['channels']}; of {count}, {colour} are in colour"
        derived = derived.told(channels=told)
        if colour and preprocess.n_channels == 1:
            note(
                f"{colour} of {count} are in colour, which a model of one channel does not see; see model.kwargs.in_chans"
            )

    def measure() -> tuple[Sequence[float], Sequence[float]]:
        parts = batches(len(split), LOOKED_AT, "mean and standard deviation") if images is None else ()
        streamed = (image for part in parts for image in split.pixels(preprocess, part))
        return statistics(streamed if images is None else images)

    return derived.measured(measure, count)


def order_classes(model: VisionTransformer, labels: Sequence[str], classes: Sequence[str]) -> None:
    """Put the outputs of the head into the order of the dataset's classes, if both have the same names."""
    if list(labels) == list(classes):
        return
    if sorted(labels) != sorted(classes) or len(set(labels)) < len(labels):
        print(
            f"note: the weights name their classes {names(list(labels))}, the dataset {names(list(classes))}; class i of "
            "the head is taken as class i of the dataset"
        )
        return
    order = torch.tensor([list(labels).index(name) for name in classes])
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(parameter[order].clone())
    print(f"note: the classes of the weights, {names(list(labels))}, were put into the order of the dataset")


def _load(options: dict[str, Any], classes: list[str]) -> tuple[VisionTransformer, dict[str, Any] | None]:
    """The given model, and the record of its head if that is a text head."""
    if options["zero_shot"]:
        return zero_shot.build(options, classes)
    if options["weights"] != "pretrained":
        key = options.get("weights_key")
        return load_model(options["architecture"], options["kwargs"], options["weights"], len(classes), key), None
    model = load_model(options["architecture"], options["kwargs"], "pretrained")
    if model.num_classes != len(classes):
        raise FggError(
            f"model.weights: the pretrained {options['architecture']!r} has {model.num_classes} classes, but the "
            f"dataset has {len(classes)}; give the path of fine-tuned weights, or 'train'"
        )
    return model, None


@dataclass(frozen=True)
class Seen:
    """The measurements on a split of n images.

    ``labels`` (n,), ``predicted`` (n,), ``grey`` (n, BASELINE_SIDE ** 2), small grey copies of the images, and ``means``
    (n, C), the mean of each image's input per channel.
    """

    labels: np.ndarray
    predicted: np.ndarray
    grey: np.ndarray
    means: np.ndarray


def look(
    model: VisionTransformer, split: Split, preprocess: Preprocess, device: torch.device, images: Tensor | None = None
) -> Seen:
    """Run the model on a split, a few images at a time; ``images`` are its tensors if they are already in memory."""
    predicted, small, means = [], [], []
    for part in batches(len(split), LOOKED_AT, f"{split.path.stem} split"):
        shown = split.tensors(preprocess, part) if images is None else images[part]
        predicted.append(predict(model, shown.to(device)).cpu().numpy())
        small.append(grey(shown, preprocess.channels))
        means.append(shown.double().mean((2, 3)).numpy())
    return Seen(split.labels, np.concatenate(predicted), np.concatenate(small), np.concatenate(means))


def grey(images: Tensor, channels: str) -> np.ndarray:
    """Small grey copies of standardised images (n, C, H, W): (n, BASELINE_SIDE ** 2)."""
    pixels = images[:, :1] if channels in GREY_FIRST else images.mean(1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(pixels, BASELINE_SIDE).flatten(1).numpy()


def measure(seen: dict[str, Seen]) -> dict[str, dict[str, float]]:
    """Per split, accuracy and balanced accuracy of the model and of its baselines.

    The baselines are the majority class and logistic regression on grey pixels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    training, validation = seen["train"], seen["val"]
    candidates = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in BASELINE_C]
    for candidate in candidates:
        candidate.fit(training.grey, training.labels)
    baseline = max(candidates, key=lambda fitted: fitted.score(validation.grey, validation.labels))
    majority = np.bincount(training.labels).argmax()
    found = {}
    for name, split in seen.items():
        linear = baseline.predict(split.grey)
        found[name] = {
            "images": len(split.labels),
            "accuracy": float((split.predicted == split.labels).mean()),
            "balanced_accuracy": float(balanced_accuracy_score(split.labels, split.predicted)),
            "majority_accuracy": float((majority == split.labels).mean()),
            "logistic_regression_accuracy": float((linear == split.labels).mean()),
            "logistic_regression_balanced_accuracy": float(balanced_accuracy_score(split.labels, linear)),
        }
    return found


def report(record: dict[str, Any]) -> None:
    """Print the measurements."""
    for split, found in record["accuracy"].items():
        print(
            f"{split:>5}: accuracy {found['accuracy']:.3f} (balanced {found['balanced_accuracy']:.3f}), "
            f"majority {found['majority_accuracy']:.3f}, "
            f"logistic regression on grey pixels {found['logistic_regression_accuracy']:.3f} "
            f"(balanced {found['logistic_regression_balanced_accuracy']:.3f}), {found['images']} images"
        )
    for layer in record["layers"]:
        print(f"layer {layer['layer']}: residual x gradient {layer['status']} ({layer['survives']:.2g} survives)")


if __name__ == "__main__":
    sys.exit(main())
