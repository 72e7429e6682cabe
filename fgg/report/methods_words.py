r"""Tables of Markdown about methods: cost against faithfulness, the gate on each method, and metrics judged by planted cues.

    python -m fgg.report.methods_words --results results --times results/benchmarks/methods.json \
        --parts methods gates --insert docs/methods.md

Several seeds are averaged. The markers in the file say which table goes where.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.comparison.strata import MEASURABLE
from fgg.comparison.verdicts import BETTER, UNGATED, WORSE
from fgg.jobs.command import command
from fgg.report.experiment_names import method_title
from fgg.report.figures.methods import BACKWARD
from fgg.report.insertion import insert
from fgg.report.metrics_shown import measures_in
from fgg.tables import read_csv, read_json, read_table

FILLS = ("first_fill", "second_fill")
TEXTS = ("dataset", "seed", "fill", "layers")
BEGIN, END = "<!-- {}: begin (made by fgg.report.methods_words) -->", "<!-- {}: end -->"
PARTS = ("methods", "gates", "judged", "agreement")
TRUTH = "average_precision"  # the metric against the mask that the others are compared with


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables of a run; print or insert the text."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.methods_words", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--results", type=Path, required=True, help="folder with methods.csv, hypotheses.csv, judged.csv"
    )
    parser.add_argument("--times", type=Path, help="JSON of python -m fgg.bench.methods")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--insert", type=Path, help="file with the markers between which the tables go")
    arguments = parser.parse_args(argv)
    comparison = read_table(arguments.results / "comparison.parquet").to_pandas()
    times = read_json(arguments.times)["methods"] if arguments.times else {}
    texts = {
        "methods": methods_table(read_csv(arguments.results / "methods.csv", texts=TEXTS), comparison, times),
        "gates": gates_table(read_csv(arguments.results / "hypotheses.csv", texts=TEXTS)),
        "judged": judged_table(read_csv(arguments.results / "judged.csv", texts=TEXTS)),
        "agreement": agreement_table(read_csv(arguments.results / "agreement.csv", texts=(*TEXTS, *FILLS))),
    }
    for part in arguments.parts:
        text = "\n".join(texts[part])
        if arguments.insert is None:
            print(text)
        else:
            insert(text, arguments.insert, BEGIN.format(part), END.format(part))


def methods_table(methods: pd.DataFrame, comparison: pd.DataFrame, times: Mapping[str, Any]) -> Iterator[str]:
    """A row per method without a gate, cheapest first, ceilings and known maps last; means over datasets and seeds."""
    measures = measures_in(comparison)
    plain = comparison.loc[comparison["construction"].isna() & comparison["control"].isna(), "experiment"].unique()
    own = methods[methods["experiment"].isin(plain)]
    names = [name for name in measures if name in own]
    numbers = own.groupby("experiment", sort=False)[["forward_passes", "backward_passes", *names]].mean()
    about = own.drop_duplicates("experiment").set_index("experiment")[["method", "title", "role"]]
    cost = numbers["forward_passes"] + BACKWARD * numbers["backward_passes"]
    order = pd.DataFrame({"bound": about["role"] != "method", "cost": cost}).sort_values(
        ["bound", "cost"], kind="stable"
    )
    yield "| method | passes | ms | " + " | ".join(_heading(measures[name]) for name in names) + " |"
    yield "|---|---|---|" + "---|" * len(names)
    best = {name: _best(numbers.loc[about["role"] == "method", name], measures[name].metric.sign) for name in names}
    for name in order.index:
        row = numbers.loc[name]
        passes = (
            f"{row['forward_passes']:.0f} + {row['backward_passes']:.0f}" if pd.notna(row["forward_passes"]) else "?"
        )
        time = _time(times.get(about.loc[name, "method"]), row)
        cells = [_number(row[each], each in best and name == best[each]) for each in names]
        kind = "" if about.loc[name, "role"] == "method" else f" ({about.loc[name, 'role']})"
        yield f"| `{name}`{kind} | {passes} | {'' if time is None else f'{time:.1f}'} | {' | '.join(cells)} |"


def gates_table(hypotheses: pd.DataFrame) -> Iterator[str]:
    """A row per gated method and layers: the gate's gain in the metric's unit, and the runs better and worse."""
    own = hypotheses[hypotheses["against"].isin(["transmm", UNGATED]) & (hypotheses["stratum"] == MEASURABLE)]
    measures = measures_in(own)
    yield "| method | gated layers | " + " | ".join(_heading(measure) for measure in measures.values()) + " |"
    yield "|---|---|" + "---|" * len(measures)
    for (method, layers, *_), rows in own.groupby(["method", "layers", "clamp_max", "alpha"], sort=False, dropna=False):
        cells = []
        for measure in measures.values():
            each = rows[(rows["metric"] == measure.metric.name) & (rows["fill"].fillna("") == measure.fill)]
            cells.append(_gain(each))
        yield f"| {method_title(str(method))} | {layers} | {' | '.join(cells)} |"


def judged_table(judged: pd.DataFrame) -> Iterator[str]:
    """A row per metric: how often it prefers the map of the cue to that of the decoy, per dataset, seeds together."""
    own = judged[judged["stratum"] == MEASURABLE].fillna({"fill": ""})
    datasets = list(dict.fromkeys(own["dataset"]))
    yield "| metric, fill | " + " | ".join(f"`{name}`" for name in datasets) + " | all |"
    yield "|---|" + "---|" * (len(datasets) + 1)
    measures = measures_in(own)
    for measure in measures.values():
        rows = own[(own["metric"] == measure.metric.name) & (own["fill"] == measure.fill)]
        cells = [_share(rows[rows["dataset"] == name]) for name in datasets] + [_share(rows)]
        yield f"| {measure.metric.title}{f', {measure.fill}' if measure.fill else ''} | {' | '.join(cells)} |"


def agreement_table(agreement: pd.DataFrame) -> Iterator[str]:
    """A row per metric: how far it ranks the methods as the average precision against the mask does, per dataset."""
    own = agreement[(agreement["stratum"] == MEASURABLE)].fillna(dict.fromkeys(FILLS, ""))
    turned = own.rename(
        columns={"first": "second", "second": "first", "first_fill": "second_fill", "second_fill": "first_fill"}
    )
    both = pd.concat([own, turned])
    rows = both[both["first"] == TRUTH].rename(columns={"second": "metric", "second_fill": "fill"})
    datasets = list(dict.fromkeys(rows["dataset"]))
    yield "| metric, fill | " + " | ".join(f"`{name}`" for name in datasets) + " |"
    yield "|---|" + "---|" * len(datasets)
    for measure in measures_in(rows.assign(higher_is_better=True)).values():
        each = rows[(rows["metric"] == measure.metric.name) & (rows["fill"] == measure.fill)]
        cells = [_spread(each.loc[each["dataset"] == name, "over_methods"]) for name in datasets]
        yield f"| {measure.metric.title}{f', {measure.fill}' if measure.fill else ''} | {' | '.join(cells)} |"


def _spread(values: pd.Series) -> str:
    """The values of the runs."""
    return " / ".join(f"{value:+.2f}".replace("-", "−") for value in values.dropna())


def _time(timed: Mapping[str, Any] | None, row: pd.Series) -> float | None:
    """Milliseconds per image; with other options than the timed ones, in proportion to the passes."""
    if timed is None or pd.isna(row["forward_passes"]):
        return None
    forward, backward = timed["stated"]
    return (
        timed["ms_per_image"]
        * (row["forward_passes"] + BACKWARD * row["backward_passes"])
        / (forward + BACKWARD * backward)
    )


def _heading(measure: Any) -> str:
    return f"{measure.short} {'↑' if measure.metric.higher_is_better else '↓'}"


def _best(values: pd.Series, sign: int) -> str:
    return str((sign * values).idxmax()) if values.notna().any() else ""


def _number(value: float, best: bool) -> str:
    text = "" if pd.isna(value) else re.sub(r"^(−?)0\.", r"\1.", f"{value:.3f}".replace("-", "−"))
    return f"**{text}**" if best else text


def _gain(rows: pd.DataFrame) -> str:
    """The mean gain of the runs, positive is better; bold if all significant ones go the same way."""
    if rows.empty or rows["improvement"].isna().all():
        return ""
    verdicts = rows["verdict"].astype(str)
    better, worse = (int(verdicts.str.startswith(word).sum()) for word in (BETTER, WORSE))
    text = re.sub(r"^([+−])0\.", r"\1.", f"{rows['improvement'].mean():+.3f}".replace("-", "−"))
    if len(rows) > 1:
        text += f" ({better}, {worse} of {len(rows)})"
    sure = max(better, worse) == len(rows) and not verdicts.str.contains("in values").any()
    return f"**{text}**" if sure else text


def _share(rows: pd.DataFrame) -> str:
    count = rows["n"].sum()
    return f"{100 * (rows['share_right'] * rows['n']).sum() / count:.0f} % of {count}" if count else ""


if __name__ == "__main__":
    sys.exit(main())
