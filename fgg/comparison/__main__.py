"""Compare all experiments with the baseline: comparison.parquet, comparison.csv and hypotheses.csv.

python -m fgg.comparison --datasets elpv --settings JSON --results results --output results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fgg.comparison.summary import readable
from fgg.comparison.tables import comparison, metrics_of, read_notes
from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.tables import read_json, write_csv, write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Read the scores, write the tables, print a short one."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison", description=__doc__.split("\n")[0])
    parser.add_argument("--datasets", required=True, nargs="+", metavar="NAME")
    parser.add_argument(
        "--settings",
        required=True,
        help="JSON, or a file of it: baseline, protocol, precision, seed, experiments {dataset: [[id, settings], …]}, "
        "and perhaps notes {dataset: {id: text}}",
    )
    parser.add_argument("--results", required=True, help="folder with {dataset}/faithfulness/{experiment}.parquet")
    parser.add_argument("--output", required=True, help="folder for the tables")
    parser.add_argument("--models", help="folder with {dataset}/model.json, whose degenerate layers become notes")
    parser.add_argument("--data", type=Path, help="folder with {dataset}/dataset.json, whose skipped files are counted")
    parser.add_argument("--notes", help="file of JSON, {dataset: {experiment: text}}; goes before --models")
    arguments = parser.parse_args(argv)

    datasets = arguments.datasets
    settings = _json(arguments.settings, "--settings")
    missing = [key for key in ("baseline", "protocol", "precision", "seed", "experiments") if key not in settings]
    missing += [f"experiments.{name}" for name in datasets if name not in settings.get("experiments", {})]
    if missing:
        raise FggError(f"--settings lacks {', '.join(missing)}")
    # Pairs keep the order of the grid where JSON objects are sorted.
    settings["experiments"] = {name: dict(settings["experiments"][name]) for name in datasets}
    found = read_notes(arguments.models, settings["experiments"]) if arguments.models else {}
    given = read_json(arguments.notes) if arguments.notes else settings.get("notes") or {}
    settings["notes"] = {name: {**found.get(name, {}), **given.get(name, {})} for name in datasets}

    if arguments.data:
        settings["skipped"] = {
            name: read_json(arguments.data / name / "dataset.json")["n_skipped"] for name in datasets
        }

    table, hypotheses = comparison(arguments.results, datasets, settings)
    output = Path(arguments.output)
    frame = table.to_pandas()
    write_table(output / "comparison.parquet", table, settings)
    write_csv(output / "comparison.csv", frame)
    write_csv(output / "hypotheses.csv", hypotheses.to_pandas())
    print("\n".join(readable(frame, {name: metrics_of(settings, name) for name in datasets})))


def _json(text: str, option: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return read_json(text)
    try:
        return json.loads(text)
    except ValueError as error:
        raise FggError(f"{option} is not JSON ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
