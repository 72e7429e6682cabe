"""What ``fgg explain`` found, image by image, and the files that are made of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from fgg import __version__
from fgg.explain import options
from fgg.explain.drawing import Look, draw, panels
from fgg.explain.explained_model import Picture, Subject
from fgg.explain.explanation import Explanation, Settings, explain
from fgg.explain.exports import Maps, PatchFeatures
from fgg.explain.options import STDOUT
from fgg.explain.records import record, text
from fgg.tables import SCHEMA_VERSION, write_json
from fgg.visible import visible


class Outcome:
    """What was found, image by image, and the files that are made of it.

    Args:
        files: name of an image -> the name of its own files.
        weak: warnings about SAEs, for the picture.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        subject: Subject,
        settings: Settings,
        files: dict[str, str],
        weak: list[str],
    ) -> None:
        self.arguments, self.subject, self.settings, self.files, self.weak = arguments, subject, settings, files, weak
        self.look = Look(settings.titles, arguments.smooth, arguments.own_scale, arguments.grey)
        self.maps = Maps(settings.methods, subject.preprocess.output_size) if arguments.maps else None
        self.features = PatchFeatures() if arguments.patch_features else None
        self.rows: list[Explanation] = []
        self.records: list[dict[str, Any]] = []
        self.panels: list[dict[str, Any]] = []

    def add(self, picture: Picture) -> None:
        """Explain an image, print it, and write the files that are its own."""
        each = explain(self.subject, picture, self.settings)
        own = record(each, self.subject.classes, self.settings.titles)
        if self.arguments.json != STDOUT:
            print(visible(text(own), keep="\n"))
        if self.maps is not None:
            self.maps.add(each)
        if self.features is not None:
            self.features.add(each)
        each.terms = []
        if self.arguments.panels:
            folder = self.files[picture.name]
            shown = panels(each, self.subject, self.arguments.panels / folder, self.look)
            own_panels = [{**panel, "file": f"{folder}/{panel['file']}"} for panel in shown]
            self.panels.append({**own, "panels": own_panels})
        if not self.arguments.no_picture:
            if self.arguments.output.suffix:
                self.rows.append(each)
            else:
                file = self.arguments.output / f"{self.files[picture.name]}.png"
                draw([each], self.subject, file, self.settings.headline, self.look, self.weak)
                own["picture"] = str(file)
        self.records.append(own)

    def write(self, others: Sequence[str], faults: Sequence[str]) -> None:
        """Write the files about all images, and say which.

        Args:
            others: files of folders that are no images.
            faults: a line per image that could not be read.
        """
        arguments, about = self.arguments, self.about()
        if self.rows:
            draw(self.rows, self.subject, arguments.output, self.settings.headline, self.look, self.weak)
        if self.maps is not None:
            self.maps.write(arguments.maps)
        if self.features is not None:
            self.features.write(arguments.patch_features, about)
        if arguments.panels:
            write_json(arguments.panels / "metadata.json", {"images": self.panels}, about)
        whole = {
            "images": self.records, "unreadable": list(faults), "other_files": list(others),
            "preprocessing": self.subject.preparation, "warnings": self.weak,
            "files": {option.removeprefix("--"): str(path) for option, path in options.outputs(arguments).items()},
        }  # fmt: skip
        if arguments.json == STDOUT:
            noted = {**whole, "fgg": {"schema": SCHEMA_VERSION, "settings": about}}
            print(json.dumps(noted, indent=1, allow_nan=False, ensure_ascii=False))
            return
        if arguments.json is not None:
            write_json(arguments.json, whole, about)
        if others:
            print(f"left out: {len(others)} other files, such as {others[0]}")
        print(f"preprocessing: {self.subject.preparation}")
        for option, path in options.outputs(arguments).items():
            name = "picture" if option == "--output" else option.removeprefix("--").replace("-", " ")
            print(f"{name}: {path}")

    def about(self) -> dict[str, Any]:
        """The settings that made the files."""
        own, gate = self.settings, self.settings.gate
        made = None if gate is None else {"layers": list(gate.layers), "construction": gate.construction,
                                          "clamp_max": gate.clamp_max, "alpha": gate.alpha}  # fmt: skip
        return {
            "version": __version__, "methods": list(own.methods), "gate": made, "target": self.arguments.target,
            "remove": own.remove, "fills": list(own.fills), "draws": own.draws, "seed": own.seed,
        }  # fmt: skip
