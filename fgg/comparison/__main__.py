"""Compare all experiments with the baseline: comparison, hypotheses, decomposition and agreement; tabulate the SAEs.

python -m fgg.comparison --settings JSON --results results --data data --output results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fgg.comparison import quality
from fgg.comparison.sae_table import read_measures, sae_table
from fgg.comparison.summary import readable
from fgg.comparison.tables import comparison
from fgg.degeneracy import measured, note
from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.tables import read_json, write_csv, write_table

REQUIRED = ("baseline", "protocol", "precision", "seed", "experiments")


@command
def main(argv: list[str] | None = None) -> None:
    """Read the scores, write the tables and print a short one."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--settings",
        required=True,
        help="JSON, or a file of it: baseline, protocol, precision, seed, experiments {dataset: [[id, settings], …]}, "
        "and perhaps runs (their order), metrics, instances, family, quality and notes {dataset: {id: text}}",
    )
    parser.add_argument(
        "--results", required=True, type=Path, help="folder with {dataset}/faithfulness/{experiment}.parquet"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the tables")
    parser.add_argument(
        "--data", type=Path, help="folder with prepared/, models/ and saes/, whose faults become notes, and are counted"
    )
    parser.add_argument("--notes", help="file of JSON, {dataset: {experiment: text}}, instead of those from --data")
    arguments = parser.parse_args(argv)
    settings = read(arguments.settings, arguments.data)
    if arguments.notes:
        settings["notes"] = read_json(arguments.notes)

    tables = comparison(arguments.results, settings.get("runs", list(settings["experiments"])), settings)
    for name, table in tables._asdict().items():
        write_csv(arguments.output / f"{name}.csv", table.to_pandas())
    write_csv(arguments.output / "sae_quality.csv", sae_table(settings, arguments.data))
    write_table(arguments.output / "comparison.parquet", tables.comparison, settings)
    print("\n".join(readable(tables.comparison.to_pandas(), settings)))


def read(text: str, data: Path | None = None) -> dict[str, Any]:
    """The settings, together with the notes, skipped files and classes from the data's own records.

    Raises:
        FggError: the text is not JSON, or a setting is missing.
    """
    settings = _json(text, "--settings")
    if missing := [key for key in REQUIRED if key not in settings]:
        raise FggError(f"--settings lacks {', '.join(missing)}")
    # The grids come as pairs, which keep their order; the keys of JSON objects are sorted.
    settings["experiments"] = {name: dict(grid) for name, grid in settings["experiments"].items()}
    settings["notes"] = settings.get("notes") or {}
    if data is None:
        return settings
    levels = {**quality.LEVELS, **settings.get("quality", {})}
    for name, grid in settings["experiments"].items():
        own = {
            "prepared": name,
            "model": name,
            "sae": name,
            "split": "test",
            **settings.get("instances", {}).get(name, {}),
        }
        images = read_json(data / "prepared" / own["prepared"] / "dataset.json")
        model = read_json(data / "models" / own["model"] / "model.json")
        saes = read_measures(data, own["sae"], grid)
        status = measured(model["layers"])
        found = {}
        for experiment, each in grid.items():
            remarks = [note(each, status), *quality.warnings(each, model, saes, own["split"], levels)]
            found[experiment] = "; ".join(filter(None, remarks))
        settings["notes"][name] = {**found, **settings["notes"].get(name, {})}
        settings.setdefault("skipped", {})[name] = images["n_skipped"]
        settings.setdefault("classes", {})[name] = images["classes"]
    return settings


def _json(text: str, option: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return read_json(text)
    try:
        return json.loads(text)
    except ValueError as error:
        raise FggError(f"{option} is not JSON ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
