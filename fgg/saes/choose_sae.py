"""Take one SAE of a sweep, by what was measured on validation images: ``python -m fgg.saes.choose_sae``.

Writes its folder, and a table of all of them. Does not import torch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.checksums import check
from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.saes.sweep import COLUMNS
from fgg.tables import atomic, read_json, write_csv, write_json

FILES = ("cfg.json", "sae_weights.safetensors")
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
    place, by = arguments.folder / chosen / f"layer_{arguments.layer}", in_words(settings["select"])
    for name in FILES:
        check(place / name)
        with atomic(arguments.output / name) as temporary:
            shutil.copyfile(place / name, temporary)
    record = read_json(place / "metrics.json")
    made_with = record.pop("fgg")["settings"]
    write_json(arguments.output / "metrics.json", {**record, "chosen": f"{chosen} of {len(frame)}, {by}"}, made_with)
    write_csv(arguments.table, frame)
    print(f"layer {arguments.layer}: of {len(frame)} SAEs {chosen} is taken ({by})")
    best = frame.loc[frame["chosen"], settings["select"]["measure"]].item()
    if settings["select"]["measure"] not in SMALLER_IS_BETTER and best <= 0:
        print(
            f"warning: layer {arguments.layer}: the best value is {best:.3g}; the measure says little about these SAEs"
        )


def candidates(
    folder: Path, layer: int, trained: Mapping[str, Mapping[str, Any]], select: Mapping[str, Any]
) -> pd.DataFrame:
    """A row per SAE of a layer's sweep: its settings, its measurements, whether it is on the Pareto front and is chosen.

    An SAE is on the front (``pareto``) if no other is at least as good in both, and better in one: smaller L0, larger
    explained variance. Of equal ones, the sparsest is chosen.

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
        why = "keeps the limits" if not fits.any() else "has a value within the limits"
        ranges = f"L0 from {frame['l0'].min():.1f} to {frame['l0'].max():.1f}, dead features from {frame['dead_share'].min():.0%}"
        raise FggError(f"sae.select: no SAE of layer {layer} {why} ({in_words(select)}); the sweep has {ranges}")
    order = frame.assign(value=values if measure in SMALLER_IS_BETTER else -values)
    best = order[values.notna()].sort_values(["value", "l0"], kind="stable").index[0]
    frame["within_limits"] = fits
    frame["pareto"] = on_front(frame["l0"], frame["explained_variance"])
    frame["chosen"] = frame.index == best
    return frame


def on_front(l0: pd.Series, explained: pd.Series) -> list[bool]:
    """Whether no other SAE is at least as good in both and better in one; never where explained variance is undefined."""
    points = list(zip(l0.astype(float), explained.astype(float), strict=True))
    return [
        own_ev == own_ev and not any(a <= own_l0 and b >= own_ev and (a, b) != (own_l0, own_ev) for a, b in points)
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
