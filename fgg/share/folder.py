"""The folder of shared SAEs: a sae-lens folder and measurements per layer, checked by reading it back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fgg.data.settings_files import read_settings
from fgg.errors import FggError
from fgg.saes.sae import SAE_FILES, load_sae
from fgg.share.private import without_paths
from fgg.tables import atomic, read_json

SAES = Path("data", "saes")
METRICS = "metrics.json"
ROWS = 256  # random rows on which the folder is compared with its source
CLOSE = 1e-6  # largest difference, relative to the size of the values


@dataclass
class SharedSae:
    """An SAE in a folder to share.

    Attributes:
        layer: the layer at whose end it reads.
        config: what its ``cfg.json`` holds.
        measured: what its ``metrics.json`` holds.
        digest: SHA-256 of its weights.
        left_out: names of what was left out of the settings, because it held a path of this machine.
        files: paths of its files, relative to the shared folder.
    """

    layer: int
    config: dict[str, Any]
    measured: dict[str, Any]
    digest: str
    left_out: list[str]
    files: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its folder, which is its id for sae-lens."""
        return f"layer_{self.layer}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says about itself."""
        return self.config.get("metadata") or {}


def sae_folders(directory: Path, dataset: str | None, layers: Sequence[int]) -> tuple[str, dict[int, Path]]:
    """The name of a dataset and its SAEs' folders by layer; all layers if none is given.

    Raises:
        FggError: the dataset or a layer has no SAE, or there are several datasets and none is chosen.
    """
    place = directory / SAES
    known = sorted({path.parents[1].name for path in place.glob(f"*/layer_*/{SAE_FILES[1]}")})
    if dataset is None and len(known) == 1:
        dataset = known[0]
    if dataset not in known:
        wanted = f"no SAE of a dataset {dataset!r}" if dataset else f"SAEs of {len(known) or 'no'} datasets"
        there = f"; there: {', '.join(known)}, choose with --dataset" if known else ""
        raise FggError(
            f"{wanted} in {place}{there}. Train some with `make results`, or say with --directory where data/ lies"
        )
    assert dataset is not None
    files = (place / dataset).glob(f"layer_*/{SAE_FILES[1]}")
    found = {int(file.parent.name.removeprefix("layer_")): file.parent for file in files}
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise FggError(
            f"{place / dataset} has no SAE of layer {', '.join(map(str, missing))}; there: layer "
            f"{', '.join(map(str, sorted(found)))}"
        )
    return dataset, {layer: found[layer] for layer in sorted(layers or found)}


def check_output(folder: Path, force: bool) -> None:
    """Raise FggError if a folder cannot be written, or holds files and ``force`` is not given."""
    if folder.exists() and not folder.is_dir():
        raise FggError(f"{folder} is a file; choose another --output")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise FggError(f"{folder} is not empty; choose another --output, or add --force to replace files in it")


def write_sae(source: Path, folder: Path, layer: int) -> SharedSae:
    """Write an SAE below a folder: ``layer_{n}/`` with ``cfg.json``, the weights, and what was measured.

    Raises:
        FggError: the source is damaged, or what was written does not give what the source gives.
    """
    from safetensors.torch import load_file, save_file

    sae = load_sae(source)  # reports what is damaged
    config: dict[str, Any] = read_settings(source / SAE_FILES[0])
    left_out: list[str] = []
    config = without_paths(config, SAE_FILES[0], left_out) | {"device": "cpu"}
    target = folder / f"layer_{layer}"
    _write_json(target / SAE_FILES[0], config)
    with atomic(target / SAE_FILES[1]) as temporary:
        # Read and written again, so that nothing but tensors is in the file.
        save_file(load_file(source / SAE_FILES[1]), temporary)
    measured: dict[str, Any] = {}
    if (source / METRICS).is_file():
        found = {key: value for key, value in read_json(source / METRICS).items() if key != "fgg"}
        measured = without_paths(found, METRICS, left_out)
        _write_json(target / METRICS, measured)
    with (target / SAE_FILES[1]).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_copy(sae, target)
    files = [*SAE_FILES, *([METRICS] if measured else [])]
    return SharedSae(layer, config, measured, digest, left_out, [f"{target.name}/{name}" for name in files])


def _write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        try:
            text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        except ValueError as error:
            raise FggError(f"{path.name} of the SAE holds a number that is not finite ({error}); correct it") from None
        temporary.write_text(text + "\n", encoding="utf-8")


def check_copy(sae: Any, folder: Path) -> None:
    """Compare an SAE with what sae-lens reads from a folder, on random rows: codes and reconstructions.

    Raises:
        FggError: they differ by more than `CLOSE`, relative to the largest value.
    """
    from sae_lens import SAE

    copy = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    draw = torch.Generator().manual_seed(0)
    width = sae.W_dec.shape[1]
    rows = torch.randn(ROWS, width, generator=draw) * torch.logspace(-1, 1, ROWS)[:, None] + sae.b_dec.detach()
    with torch.no_grad():
        expected, found = sae.encode(rows), copy.encode(rows)
        pairs = {"encode": (expected, found), "decode": (sae.decode(expected), copy.decode(found))}
    for name, (one, other) in pairs.items():
        worst = float((one - other).abs().max()) if one.shape == other.shape else float("inf")
        if not worst <= CLOSE * max(1.0, float(one.abs().max())):
            raise FggError(
                f"{folder}: {name} of what was written differs from the source by {worst:.3g}; check the disk, and whether "
                "the versions of fgg and sae-lens fit, and run the command again"
            )
