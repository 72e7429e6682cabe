"""One job of ``python -m fgg.attribution``: its arguments, and what its tables depend on. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgg.checksums import checksum
from fgg.degeneracy import measured, note
from fgg.jobs.command import add_arguments
from fgg.jobs.shards import WHOLE, Shard
from fgg.jobs.shared_work import Task, group_of
from fgg.tables import read_json

ABOUT = "Attributions of one experiment: the relevance of every patch of every image of a split, and the gates."


@dataclass(frozen=True)
class Job:
    """The arguments of one job; see the command's help."""

    model: Path
    images: Path
    experiment: dict[str, Any]
    settings: dict[str, Any]
    relevance: Path
    gates: Path | None = None
    saes: Mapping[int, Path] = field(default_factory=dict)
    shard: Shard = WHOLE
    code: str = ""
    chosen: Path | None = None

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment with the options that were chosen for it.

        Raises:
            FggError: the file of the choice is missing or damaged.
        """
        own = {key: value for key, value in self.experiment.items() if key != "choose"}
        if self.chosen is not None:
            own["options"] = {**own.get("options", {}), **read_json(self.chosen)["options"]}
        return own

    @property
    def group(self) -> str:
        """Equal for jobs that can share a pass of the model."""
        files = [checksum(path) for path in (self.model / "model.safetensors", self.model / "model.json", self.images)]
        return group_of("attribution", *files, self.settings, (self.shard.number, self.shard.count))

    @property
    def task(self) -> Task:
        """What the job makes, and what its results depend on."""
        files = {
            "model": self.model / "model.safetensors",
            "model.json": self.model / "model.json",
            "images": self.images,
        }
        for layer, folder in sorted(self.saes.items()):
            files |= {f"sae {layer}": folder / "sae_weights.safetensors", f"sae {layer} cfg": folder / "cfg.json"}
        if "maps" in self.experiment:
            files["maps"] = Path(self.experiment["maps"])
        remark = note(self.experiment, measured(read_json(self.model / "model.json")["layers"]))
        outputs = {"relevance": self.relevance, **({"gates": self.gates} if self.gates else {})}
        settings = {"experiment": self.resolved, **self.settings, "note": remark}
        made_from = {"code": self.code, "files": {name: checksum(path) for name, path in files.items()}}
        return Task("attribution", outputs, settings, made_from)


def parse(argv: Sequence[str] | None) -> Job:
    """The job that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m fgg.attribution", description=ABOUT)
    add_arguments(parser, "model", "images", "experiment", "shard", "code", settings="JSON: seed, device, precision, …")
    parser.add_argument(
        "--sae", action="append", default=[], type=_sae, metavar="LAYER=FOLDER", help="SAE of a layer; repeatable"
    )
    parser.add_argument("--chosen", type=Path, help="JSON with the options that were chosen for the method")
    parser.add_argument("--relevance", type=Path, required=True, help="table to write")
    parser.add_argument("--gates", type=Path, help="table of gates to write")
    options = vars(parser.parse_args(argv))
    return Job(saes=dict(options.pop("sae")), **options)


def _sae(text: str) -> tuple[int, Path]:
    layer, _, folder = text.partition("=")
    if not (layer.isdecimal() and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LAYER=FOLDER, such as 2=data/saes/elpv/layer_2")
    return int(layer), Path(folder)
