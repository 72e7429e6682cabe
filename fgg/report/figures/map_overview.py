"""The overview: the maps of each method on a few images of the explained split."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.data.images import decode
from fgg.data.stratified import keyed_order
from fgg.errors import FggError
from fgg.report.experiment_names import group, label, place, varies
from fgg.report.figures import style
from fgg.tables import matrix, read_json, read_table

IMAGES = 6
MOST_GATES = 8


def overview_figure(
    frame: pd.DataFrame, results: str | Path, images: str | Path, model: str | Path, seed: int, folder: str | Path
) -> None:
    """Draw a row per baseline and combined gate and a column per image. ``frame`` has one row per experiment.

    Args:
        images: the explained split (.parquet).
        model: folder with model.json, for the classes and the preprocessing.
    """
    from fgg import plot
    from fgg.data.preprocess import Preprocess

    first = frame.iloc[0]
    record = read_json(Path(model) / "model.json")
    preprocess, classes = Preprocess.from_dict(record["preprocess"]), record["classes"]
    table = read_table(Path(results) / first["dataset"] / "attributions" / f"{first['baseline']}.parquet")
    said = table.select(["image_id", "label", "predicted"]).to_pandas().set_index("image_id")
    chosen = choose(said["label"], seed)
    pictures = _pictures(Path(images), chosen)
    shown, left_out = _shown(frame)
    strength = varies(frame)
    size = (style.WIDTH - 1.3) / IMAGES
    wide = preprocess.output_size[0] / preprocess.output_size[1]
    height = size * wide * (1 + len(shown)) + 1.3
    with style.figure(height, nrows=1 + len(shown), ncols=len(chosen), squeeze=False) as (fig, axes):
        layout: Any = fig.get_layout_engine()
        layout.set(w_pad=0.015, h_pad=0.03, wspace=0, hspace=0)
        for axis, image_id in zip(axes[0], chosen, strict=True):
            plot.show(pictures[image_id], axis, preprocess=preprocess)
            axis.set_title(_classes(classes, said.loc[image_id]), fontsize=7)
        _name(axes[0, 0], "image")
        for number, (_, row) in enumerate(shown.iterrows(), start=1):
            relevance = _relevance(Path(results) / first["dataset"] / "attributions", row["experiment"])
            for axis, image_id in zip(axes[number], chosen, strict=True):
                _map(plot, axis, pictures[image_id], relevance[image_id], preprocess)
            gated = group(row) == "Gated" and row["construction"] == "combined"
            _name(
                axes[number, 0],
                f"gated,\n{place(row, strength)}".replace(", clamp", ",\nclamp") if gated else label(row),
            )
        drawn = [axis.images[-1] for axis in axes[1:].flat if len(axis.images) > 1]
        if drawn:
            bar = fig.colorbar(drawn[0], ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.01)
            bar.set_ticks([0, 0.5, 1], labels=["0", "half", "largest of the map"])
            bar.outline.set_visible(False)
            bar.ax.set_facecolor("0.55")  # as if over a grey image
            bar.set_label("relevance of a patch for the predicted class")
        more = f"; {left_out} more gates are not shown" if left_out else ""
        fig.suptitle(
            f"{first['dataset']}: {len(chosen)} of {first['n_images']} images, drawn at random{more}", weight="bold"
        )
        style.save(fig, folder, f"{first['dataset']}_overview")


def choose(labels: pd.Series, seed: int) -> list[str]:
    """Choose `IMAGES` image ids (or all, if there are fewer), taking the classes in turn, in a seeded order.

    ``labels`` is indexed by image id.
    """
    order = keyed_order(labels.index, seed, "overview")
    turns = pd.DataFrame({"label": labels.loc[order]})
    turns["turn"] = turns.groupby("label").cumcount()
    found = turns.sort_values(["turn", "label"], kind="stable").index[:IMAGES]
    return list(labels.loc[found].sort_values(kind="stable").index)


def _shown(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The baselines and the combined gates to show, and the number of gates left out."""
    baselines = frame[frame["construction"].isna() & frame["control"].isna()]
    plain = frame["construction"].eq("combined") & frame["control"].isna() & ~frame["shuffle_decoder"].eq(True)
    gates = frame[plain]
    return pd.concat([baselines, gates.iloc[:MOST_GATES]]), max(0, len(gates) - MOST_GATES)


def _pictures(path: Path, chosen: list[str]) -> dict:
    import pyarrow.parquet as pq

    read_table(path, columns=["image_id"])  # raises an error for a missing or damaged file
    wanted = [("image_id", "in", chosen)]
    table = pq.read_table(path, columns=["image_id", "image"], filters=wanted, page_checksum_verification=True)
    rows = table.to_pylist()
    found = {row["image_id"]: decode(row["image"]["bytes"], row["image_id"]) for row in rows}
    missing = sorted(set(chosen) - set(found))
    if missing:
        raise FggError(f"{path} lacks the image {', '.join(missing)}; run the workflow again")
    return found


def _relevance(folder: Path, name: str) -> dict[str, np.ndarray]:
    table = read_table(folder / f"{name}.parquet", columns=["image_id", "relevance"])
    return dict(zip(table["image_id"].to_pylist(), matrix(table, "relevance"), strict=True))


def _map(plot, axis, picture, relevance: np.ndarray, preprocess) -> None:
    """Draw the map as a share of its maximum; a map with undefined values stays empty, with a remark."""
    if not np.isfinite(relevance).all():
        plot.show(picture, axis, preprocess=preprocess)
        axis.text(0.5, 0.5, "undefined", ha="center", va="center", color="white", transform=axis.transAxes)
        return
    most = float(relevance.max())
    scaled = relevance / most if most > 0 else np.zeros_like(relevance)
    plot.overlay(picture, scaled, axis, vmin=0, vmax=1, colorbar=False, preprocess=preprocess)


def _name(axis, text: str) -> None:
    axis.set_ylabel(text, rotation=0, ha="right", va="center")


def _classes(classes: list[str], row: pd.Series) -> str:
    """The predicted class, and the true class if it differs."""
    predicted, true = (_short(classes[row[name]]) for name in ("predicted", "label"))
    return predicted if row["predicted"] == row["label"] else f"{predicted}\n(true: {true})"


def _short(name: str) -> str:
    """A class name as one line of at most 20 letters."""
    return (
        textwrap.shorten(name.replace("_", " "), 20, placeholder="…")
        if len(name) > 20 and " " in name
        else (name if len(name) <= 20 else name[:19] + "…")
    )
