"""What a run of the workflow made for one of its datasets, from Python: the model, its SAEs and its images.

`open_run` opens a finished run. `example_run` makes a small one of the embedded digits first, in this process.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import Split, load_split
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError, names
from fgg.explain.explained_model import MODELS, PREPARED, SAES, Subject, from_dataset, load_saes
from fgg.html_tables import html_table
from fgg.models.device import resolve
from fgg.results import Results, read_results
from fgg.tables import read_json

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
EXAMPLE, EXAMPLE_LAYERS = "digits", (1, 2)
# A Vision Transformer of 8 x 8 patches, each a pixel of the 8 x 8 digits; trained in 20 s on one core.
EXAMPLE_CONFIG: Mapping[str, Any] = {
    "run": [EXAMPLE],
    "device": "cpu",
    "datasets": {
        EXAMPLE: {
            "source": "digits",
            "fractions": {"train": 0.7, "val": 0.1, "test": 0.2},
            "model": {
                "architecture": "vit_tiny_patch16_224",
                "kwargs": {
                    "img_size": 32,
                    "patch_size": 4,
                    "embed_dim": 64,
                    "depth": 6,
                    "num_heads": 2,
                    "mlp_ratio": 2,
                },
                "weights": "train",
                "train": {
                    "epochs": 12,
                    "batch_size": 32,
                    "learning_rate": 0.003,
                    "muon_learning_rate": 0.01,
                    "full_epochs": 2,
                    "flips": False,
                },
            },
            "preprocess": {"resize": 32},
            "sae": {
                "layers": list(EXAMPLE_LAYERS),
                "weights": "train",
                "train": {"architecture": "topk", "expansion": 8, "k": 16, "tokens": 60_000, "batch_size": 512},
            },
        }
    },
    "experiments": {"baselines": ["transmm"]},
}


class LazySaes(Mapping[int, Any]):
    """Layer -> SAE, read when it is first asked for."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._read: dict[int, Any] = {}

    def __getitem__(self, layer: int) -> Any:
        """Read the SAE. Raises KeyError if there is none, and FggError if it is damaged or does not fit the model."""
        if layer not in self._subject.saes:
            raise KeyError(f"no SAE at layer {layer}; there are SAEs at {list(self)}")
        if layer not in self._read:
            self._read |= load_saes(self._subject, [layer])
        return self._read[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self._subject.saes

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._subject.saes))

    def __len__(self) -> int:
        return len(self._subject.saes)

    def __repr__(self) -> str:
        return f"SAEs at layers {', '.join(map(str, self)) or 'none'}"


@dataclass(frozen=True, repr=False)
class Images:
    """Images of a run. B images.

    Attributes:
        tensors: the model's input, float32 (B, C, H, W), on the model's device.
        image_ids: their names.
        labels: int64 (B,), indices of the run's classes.
        label_names: the classes' names, per image.
        preprocess: what made the model's input.
        split: the images as they are stored.
    """

    tensors: Tensor
    image_ids: list[str]
    labels: Tensor
    label_names: list[str]
    preprocess: Preprocess
    split: Split

    def __len__(self) -> int:
        return len(self.image_ids)

    def picture(self, place: int) -> Image.Image:
        """One of the images, upright, in its original size. Raises FggError if it is damaged."""
        return self.split.picture(place)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.tensors.shape[1:]))
        return f"Images({len(self)} of {self.split.path.name}, {shape}: {names(self.image_ids)})"


@dataclass(frozen=True, repr=False)
class Run:
    """What a run made for one of its datasets.

    Attributes:
        directory: the folder that the run worked in, with ``data/`` and ``results/``.
        dataset: the name of the dataset; of a run with several seeds, the name of its folder.
        model: the timm VisionTransformer, in eval mode.
        preprocess: the preprocessing from a picture to the model's input.
        classes: class names, in the model's order.
        saes: layer -> SAE, for ``fgg.attribute(…, saes=run.saes)``; an SAE is read when it is first used.
    """

    directory: Path
    dataset: str
    model: VisionTransformer
    preprocess: Preprocess
    classes: list[str]
    saes: Mapping[int, Any]

    def images(self, count: int | None = 8, split: str = "test", seed: int = 0) -> Images:
        """Some of the images, as many of each class as possible; the same ones for the same count and seed.

        Args:
            count: number of images; None takes all of the split.
            split: ``test``, ``val`` or ``train``.
            seed: of the choice.

        Raises:
            FggError: an unknown split, fewer than one image, or files that are missing or damaged.
        """
        if split not in SPLITS:
            raise FggError(f"split: {split!r} is unknown; choose from {', '.join(SPLITS)}")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise FggError(f"count: {count!r} must be a whole number of at least 1, or None for all images")
        own = load_split(self.directory / PREPARED / self.dataset / f"{split}.parquet", count, seed)
        device = next(self.model.parameters()).device
        tensors, labels = own.tensors(self.preprocess).to(device), torch.from_numpy(own.labels).to(device)
        return Images(tensors, own.image_ids, labels, own.label_names, self.preprocess, own)

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """What was measured of the model: split -> ``accuracy``, and the accuracies of simple baselines beside it."""
        return read_json(self.directory / MODELS / self.dataset / "model.json").get("accuracy") or {}

    def sae_quality(self) -> pd.DataFrame:
        """A row per SAE with what was measured on held-out images: the single numbers of its ``metrics.json``.

        Raises:
            FggError: a file is missing or damaged.
        """
        import pandas as pd

        rows = []
        for layer in self.saes:
            found = read_json(self.directory / SAES / self.dataset / f"layer_{layer}" / "metrics.json")
            rows.append({name: value for name, value in found.items() if isinstance(value, int | float | str)})
        return pd.DataFrame(rows)

    @property
    def results(self) -> Results:
        """The run's tables, as `fgg.read_results` reads them. Raises FggError if the run is not finished."""
        return read_results(self.directory)

    def _facts(self) -> dict[str, str]:
        model = self.model
        tested = self.accuracy.get("test", {}).get("accuracy")
        said = f"; accuracy {tested:.1%} on test" if tested is not None else ""
        facts = {
            "model": f"{len(model.blocks)} blocks of width {model.embed_dim}, "
            f"{model.patch_embed.num_patches} patches{said}",
            "classes": f"{len(self.classes)}: {names(self.classes)}",
            "SAEs": f"at layers {', '.join(map(str, self.saes))}" if self.saes else "none",
        }
        return facts

    def __repr__(self) -> str:
        lines = "".join(f"\n  {name}: {text}" for name, text in self._facts().items())
        return f"Run of {self.dataset!r} in {str(self.directory)!r}{lines}"

    def _repr_html_(self) -> str:
        return str(html_table((), self._facts().items(), f"Run of {self.dataset} in {self.directory}"))


def open_run(directory: str | Path = ".", dataset: str | None = None, device: str = "cpu") -> Run:
    """Open what a run made for a dataset: its model, SAEs and images.

    Args:
        directory: the folder that the run worked in (``--directory``), which holds ``data/``.
        dataset: one of its datasets; None takes the only one. Of a run with several seeds, such as ``elpv-seed1``.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        FggError: the folder has no such dataset, or several and none is named; files are missing or damaged.
    """
    place = _folder(directory)
    trained = sorted(path.parent.name for path in (place / MODELS).glob("*/model.json"))
    if not trained:
        raise FggError(
            f"{place} holds no trained model ({MODELS}/…/model.json); give the folder of a run, such as the one where "
            "`make results` ran, or call fgg.example_run()"
        )
    if dataset is None and len(trained) > 1:
        raise FggError(f"{place} holds several datasets: {names(trained)}; name one, such as dataset={trained[0]!r}")
    if dataset is not None and dataset not in trained:
        raise FggError(f"{place} holds no trained dataset {dataset!r}; it has {names(trained)}")
    name = dataset or trained[0]
    subject = from_dataset(name, place, resolve(device))
    return Run(place, name, subject.model, subject.preprocess, list(subject.classes), LazySaes(subject))


def example_run(directory: str | Path = "fgg-example", quiet: bool = True) -> Run:
    """Open a small run of the embedded handwritten digits; make it first if the folder has none (half a minute on a core).

    The steps are the workflow's: prepare the 1,797 digits, train a Vision Transformer of six blocks on 70 % of them, and
    SAEs of layers 1 and 2. There are no results: explain and score with `fgg.attribute` and the metrics. It needs no
    network and no GPU.

    Args:
        directory: folder of the run; what is there already is kept.
        quiet: do not print what the steps say.

    Raises:
        FggError: a file is damaged, or cannot be written.
    """
    from fgg.data.prepare import prepare
    from fgg.models import build_model
    from fgg.pipeline.parameters import Parameters
    from fgg.pipeline.study import Study
    from fgg.saes import build_sae

    place = _folder(directory)
    parameters = Parameters(Study(EXAMPLE_CONFIG))
    data, model = place / PREPARED / EXAMPLE, place / MODELS / EXAMPLE

    def step(output: Path, make: Callable[..., Any], *given: Any) -> None:
        if output.is_file():
            return
        with contextlib.ExitStack() as hushed:
            if quiet:
                hushed.enter_context(contextlib.redirect_stdout(io.StringIO()))
                hushed.enter_context(contextlib.redirect_stderr(io.StringIO()))
            make(*given)

    def settings(of: Callable[[Any], str], layer: int | None = None) -> dict[str, Any]:
        return json.loads(of(SimpleNamespace(dataset=EXAMPLE, layer=str(layer))))

    step(data / "dataset.json", prepare, EXAMPLE, settings(parameters.prepare_settings), data)
    step(model / "model.json", build_model.build, data, settings(parameters.model_settings), model)
    for layer in EXAMPLE_LAYERS:
        sae = place / SAES / EXAMPLE / f"layer_{layer}"
        wanted = settings(parameters.sae_settings, layer)
        step(sae / "metrics.json", build_sae.build, model, data, layer, wanted, sae)
    return open_run(place, EXAMPLE)


def _folder(directory: str | Path) -> Path:
    if not isinstance(directory, str | Path):
        raise FggError(f"directory: {directory!r} must be the path of a run's folder")
    return Path(directory).expanduser()
