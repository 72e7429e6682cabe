"""Take one SAE of a sweep, by what was measured on validation images: ``python -m fgg.saes.choose_sae``.

Writes its folder, and a table of all of them. Does not import torch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.saes.sweep import COLUMNS
from fgg.tables import atomic, read_json, write_csv

FILES = ("cfg.json", "sae_weights.safetensors", "metrics.json")
SMALLER_IS_BETTER = ("kl",)
MEASURED = (
    *("explained_variance", "l0", "dead_share", "same_prediction", "loss_recovered", "kl"),
    *("loss", "loss_replaced", "loss_ablated", "accuracy_before", "accuracy_after", "features", "tokens"),
)


@command
def main(argv: list[str] | None = None) -> None:
    """Choose among the candidates of a layer."""
    parser = argparse.ArgumentParser(prog="python -m fgg.saes.choose_sae", description=__doc__.split("\n")[0])
    add_arguments(parser, "layer", settings="JSON: candidates [[name, train], …], select", output="folder to write")
    parser.add_argument("--folder", type=Path, required=True, help="folder with a folder per candidate")
    parser.add_argument("--table", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args(argv)
    settings = arguments.settings
    frame = candidates(arguments.folder, arguments.layer, dict(settings["candidates"]), settings["select"])
    chosen = frame.loc[frame["chosen"], "name"].item()
    for name in FILES:
        with atomic(arguments.output / name) as temporary:
            shutil.copyfile(arguments.folder / chosen / f"layer_{arguments.layer}" / name, temporary)
    write_csv(arguments.table, frame)
    print(f"layer {arguments.layer}: of {len(frame)} SAEs {chosen} is taken ({in_words(settings['select'])})")


def candidates(
    folder: Path, layer: int, trained: Mapping[str, Mapping[str, Any]], select: Mapping[str, Any]
) -> pd.DataFrame:
    """A row per SAE of a layer's sweep: its settings, its measurements, whether it is on the Pareto front and is chosen.

    An SAE is on the front if no other has both a smaller L0 and a larger explained variance (``pareto``).

    Raises:
        FggError: no SAE keeps the limits, or the measure is defined for none that does.
    """
    rows = []
    for name, own in trained.items():
        measured = read_json(folder / name / f"layer_{layer}" / "metrics.json")
        rows.append(
            {
                "layer": layer,
                "name": name,
                **{column: own.get(key) for key, column in COLUMNS.items()},
                **{key: measured.get(key) for key in MEASURED},
            }
        )
    frame = pd.DataFrame(rows)
    fits = pd.Series(True, index=frame.index)
    for key, limit in (("l0", select["most_l0"]), ("dead_share", select["most_dead"])):
        if limit is not None:
            fits &= frame[key] <= limit
    measure = select["measure"]
    values = frame[measure].astype(float).where(fits)
    if values.isna().all():
        nearest = ", ".join(f"{row.name_} (L0 {row.l0:.1f}, {row.dead:.0%} dead)" for row in _listed(frame))
        why = "keeps the limits of" if not fits.any() else "has a value for the measure of"
        raise FggError(f"sae.select: no SAE of layer {layer} {why} {in_words(select)}; there are {nearest}")
    best = values.idxmin() if measure in SMALLER_IS_BETTER else values.idxmax()
    frame["within_limits"] = fits
    frame["pareto"] = on_front(frame["l0"], frame["explained_variance"])
    frame["chosen"] = frame.index == best
    return frame


def _listed(frame: pd.DataFrame) -> Sequence[Any]:
    renamed = frame.rename(columns={"name": "name_", "dead_share": "dead"})
    return list(renamed.head(8).itertuples(index=False))


def on_front(l0: pd.Series, explained: pd.Series) -> list[bool]:
    """Whether no other SAE is at least as good in both and better in one: smaller L0, larger explained variance."""
    points = list(zip(l0.astype(float), explained.astype(float), strict=True))
    return [
        not any(a <= own_l0 and b >= own_ev and (a, b) != (own_l0, own_ev) for a, b in points)
        for own_l0, own_ev in points
    ]


def in_words(select: Mapping[str, Any]) -> str:
    """What is chosen by, such as ``largest explained variance with L0 of at most 32``."""
    best = "smallest" if select["measure"] in SMALLER_IS_BETTER else "largest"
    limits = []
    if select["most_l0"] is not None:
        limits.append(f"L0 of at most {select['most_l0']:g}")
    if select["most_dead"] is not None:
        limits.append(f"at most {select['most_dead']:.0%} dead features")
    words = f"{best} {select['measure'].replace('_', ' ')}"
    return words + (f" with {' and '.join(limits)}" if limits else "")


if __name__ == "__main__":
    sys.exit(main())
