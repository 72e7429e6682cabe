"""Read what a run of the workflow has left in its results folder, as pandas frames. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgg.errors import FggError, names
from fgg.html_tables import html_table
from fgg.tables import read_csv, read_json, read_table

if TYPE_CHECKING:
    import pandas as pd

SUMMARY, MANIFEST, WORDS = "summary", "manifest.json", "README.md"
SHOWN = (
    *("dataset", "seed", "experiment", "metric", "fill"),
    *("mean", "difference", "ci_low", "ci_high", "verdict"),
)  # columns of the summary that a notebook shows
MOST_ROWS, MOST_LETTERS = 60, 400
# Tables per image: kind -> folder of a table for each experiment.
PER_EXPERIMENT = ("attributions", "gates", "faithfulness", "curves")
PER_DATASET = ("images", "responses")


@dataclass(frozen=True, repr=False)
class Results:
    """A results folder. Its tables are read when they are asked for, and a damaged one is refused.

    Attributes:
        folder: the results folder.
        tables: names of the tables over all datasets, such as ``summary`` and ``hypotheses``.
        experiments: dataset (for runs with several seeds, with its seed) -> names of its experiments.
    """

    folder: Path
    tables: tuple[str, ...]
    experiments: Mapping[str, tuple[str, ...]]

    def table(self, name: str = SUMMARY) -> pd.DataFrame:
        """A table over all datasets, with the columns of docs/tables.md.

        Raises:
            FggError: there is none of this name, or it is damaged.
        """
        if name not in self.tables:
            raise FggError(f"{self.folder} has no table {name!r}; it has {names(self.tables)}")
        return read_csv(self.folder / f"{name}.csv")

    def per_image(self, kind: str, dataset: str, experiment: str | None = None) -> pd.DataFrame:
        """A table with a row (of curves: several rows) per image.

        Args:
            kind: ``attributions``, ``gates``, ``faithfulness`` or ``curves`` of an experiment, or ``images`` or
                ``responses`` of a dataset.
            dataset: one of `experiments`.
            experiment: one of the dataset's experiments; None for a kind that belongs to the dataset.

        Raises:
            FggError: there is no such table, or it is damaged.
        """
        if dataset not in self.experiments:
            raise FggError(f"{self.folder} has no dataset {dataset!r}; it has {names(list(self.experiments))}")
        if kind in PER_DATASET and experiment is None:
            path = self.folder / dataset / f"{kind}.parquet"
        elif kind in PER_EXPERIMENT and experiment is not None:
            if experiment not in self.experiments[dataset]:
                known = names(self.experiments[dataset])
                raise FggError(f"dataset {dataset!r} has no experiment {experiment!r}; it has {known}")
            path = self.folder / dataset / kind / f"{experiment}.parquet"
        else:
            raise FggError(
                f"{kind!r} with experiment {experiment!r}: choose {', '.join(PER_EXPERIMENT)} of an experiment, or "
                f"{' or '.join(PER_DATASET)} without one"
            )
        if not path.is_file():
            raise FggError(f"{path} does not exist; this experiment makes none, or the run is not finished")
        return read_table(path).to_pandas()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What made the results: configuration, versions, checksums. Raises FggError: the run is not finished."""
        if not (self.folder / MANIFEST).is_file():
            raise FggError(f"{self.folder / MANIFEST} does not exist; the run is not finished")
        return read_json(self.folder / MANIFEST)

    def to_dataframe(self) -> pd.DataFrame:
        """The table ``summary``: a row per dataset, experiment, metric, fill and kind of images."""
        return self.table(SUMMARY)

    @property
    def headline(self) -> str:
        """The first words of ``README.md`` about what came out; empty if it is missing."""
        file = self.folder / WORDS
        if not file.is_file():
            return ""
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        said = [line for line in lines if line and not line.startswith(("#", "|", "<", "!"))]
        text = said[0] if said else ""
        if text.endswith(":"):
            text += "".join(f" {line.removeprefix('- ')}" for line in said if line.startswith("- "))
        text = text.replace("**", "")
        return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS].rsplit(' ', 1)[0]} …"

    def _facts(self) -> dict[str, str]:
        facts = {"in words": self.headline} if self.headline else {}
        for dataset, own in self.experiments.items():
            facts[f"dataset {dataset}"] = f"{len(own)} experiments: {names(own)}"
        facts["tables"] = names(self.tables, len(self.tables))
        if not (self.folder / MANIFEST).is_file():
            facts["state"] = "the run is not finished"
        return facts

    def __repr__(self) -> str:
        lines = "".join(f"\n  {name}: {text}" for name, text in self._facts().items())
        return f"Results in {str(self.folder)!r}{lines}\n  read them with: .table(NAME), .per_image(KIND, DATASET, EXPERIMENT)"

    def _repr_html_(self) -> str:
        frame = self.to_dataframe()
        shown = frame[frame["stratum"] == "measurable"] if "stratum" in frame else frame
        shown = shown[[column for column in SHOWN if column in frame]]
        rest = f"; the first {MOST_ROWS} of {len(shown)} rows" if len(shown) > MOST_ROWS else ""
        facts = html_table((), self._facts().items(), f"Results in {self.folder}")
        below = shown.head(MOST_ROWS).to_html(
            index=False, escape=True, border=0, float_format="{:.4g}".format, na_rep=""
        )
        return f"{facts}<details><summary>summary, measurable images{rest}</summary>{below}</details>"


def read_results(folder: str | Path = "results") -> Results:
    """The results of a run.

    Args:
        folder: a results folder, or the folder that a run worked in (``--directory``).

    Raises:
        FggError: it holds no results.
    """
    if not isinstance(folder, str | Path):
        raise FggError(f"folder: {folder!r} must be the path of a results folder")
    place = Path(folder).expanduser()
    if not (place / f"{SUMMARY}.csv").is_file() and (place / "results" / f"{SUMMARY}.csv").is_file():
        place = place / "results"
    if not (place / f"{SUMMARY}.csv").is_file():
        raise FggError(f"{place} holds no {SUMMARY}.csv; give the results folder of a run that has ended")
    tables = sorted((path.stem for path in place.glob("*.csv")), key=lambda name: (name != SUMMARY, name))
    experiments = {
        path.parent.relative_to(place).as_posix(): tuple(sorted(each.stem for each in path.glob("*.parquet")))
        for path in sorted(place.rglob("faithfulness"))
        if path.is_dir()
    }
    return Results(place, tuple(tables), experiments)
