"""Images spread over shards: the merged tables are those of the undivided run, byte for byte."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import draw
from tiny_dataset import METRICS, RUN, untrained

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job as Attribution
from fgg.errors import FggError
from fgg.faithfulness.__main__ import run as score
from fgg.faithfulness.job import Job as Scoring
from fgg.faithfulness.responses import run as respond
from fgg.jobs.merge import main, merge, write_empty
from fgg.jobs.shards import WHOLE, Shard
from fgg.tables import read_settings, read_table, write_table

GATE = {"layers": [0, 1], "construction": "no_sae", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
EXPERIMENTS = {
    "gated": {"method": "transmm", "gate": GATE, "control": None},
    "permuted": {"method": "transmm", "gate": GATE, "control": "permuted_gate"},
    "random": {"method": "random"},
    "randomized": {"method": "rollout", "control": "randomized_model"},
}
BATCH = 4


# ---- which images are whose


@given(images=st.integers(0, 300), batch=st.integers(1, 70), count=st.integers(1, 90))
def test_shards_are_whole_batches_in_order(images, batch, count):
    shards = [Shard(number, count).rows(images, batch) for number in range(1, count + 1)]
    assert [row for shard in shards for row in range(images)[shard]] == list(range(images))
    assert all(shard.start % batch == 0 for shard in shards if shard.start < shard.stop)
    batches = [-(-(shard.stop - shard.start) // batch) for shard in shards]
    assert max(batches) - min(batches) <= 1, "shards are about equally large"


def test_a_shard_by_its_name():
    assert Shard.parse("3-of-7") == Shard(3, 7)
    for text in ("0-of-3", "4-of-3", "3", "1-of-0", "-1-of-3", "a-of-b", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a shard such as 1-of-4"):
            Shard.parse(text)


# ---- the jobs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with a random model and 27 pictures: seven batches of four, the last one not full."""
    folder = tmp_path_factory.mktemp("shards")
    return untrained(folder, draw(folder / "pictures", per_class=15))


def work(prepared: Path, folder: Path, count: int) -> dict[str, bytes]:
    """All tables of all experiments, made by ``count`` shards a stage, as bytes."""
    images, model, settings = prepared / "data" / "test.parquet", prepared / "model", {**RUN, "batch_size": BATCH}
    shards = [Shard(number, count) for number in range(1, count + 1)]

    def merged(name: str, job) -> Path:
        pieces = [folder / f"{shard.number}" / name for shard in shards]
        for shard, piece in zip(shards, pieces, strict=True):
            job(shard, piece)
        merge(pieces, folder / name)
        return folder / name

    asked = {**METRICS["faithfulness_correlation"], **settings}
    scored = {"metrics": METRICS, "protocol": "corrected", **settings}
    answers = merged("responses.parquet", lambda shard, piece: respond(model, images, asked, piece, shard))
    made = [answers]
    for name, experiment in EXPERIMENTS.items():
        gates = f"{name}-gates.parquet" if "gate" in experiment else None

        def explain(shard, piece, experiment=experiment, gates=gates):
            attribute(
                Attribution(model, images, experiment, settings, piece, gates and piece.parent / gates, {}, shard)
            )

        relevance = merged(f"{name}.parquet", explain)
        made.append(relevance)
        if gates:
            made.append(merged(gates, lambda shard, piece: piece))

        def rate(shard, piece, relevance=relevance):
            score(Scoring(model, images, relevance, scored, piece, answers, shard))

        made.append(merged(f"{name}-scores.parquet", rate))
    return {path.name: path.read_bytes() for path in made}


def test_tables_are_the_same_bytes_for_any_number_of_shards(prepared, tmp_path):
    """Seven batches: twelve shards leave five empty."""
    images, model, settings = prepared / "data" / "test.parquet", prepared / "model", {**RUN, "batch_size": BATCH}
    whole = work(prepared, tmp_path / "1", 1)
    assert len(whole) == 11
    for count in (3, 7, 12):
        found = work(prepared, tmp_path / f"{count}", count)
        assert [name for name in whole if found[name] != whole[name]] == [], count
    sizes = [len(read_table(tmp_path / "12" / f"{number}" / "gated.parquet")) for number in range(1, 13)]
    assert sum(sizes) == 27 and sizes.count(0) == 5 and set(sizes) == {0, 3, 4}
    # One shard through the merge is what the undivided command writes.
    attribute(Attribution(model, images, EXPERIMENTS["gated"], settings, tmp_path / "r", tmp_path / "g", {}, WHOLE))
    assert (tmp_path / "r").read_bytes() == whole["gated.parquet"]
    assert (tmp_path / "g").read_bytes() == whole["gated-gates.parquet"]


# ---- merging


def table(path: Path, first: int, last: int, width: int = 3, **settings) -> Path:
    """A table of the images first to last."""
    draw = np.random.default_rng(0).random((100_000, width), dtype=np.float32)[first:last]
    draw[::5] = np.nan
    columns = {
        "image_id": [f"image{number:06d}" for number in range(first, last)],
        "label": np.arange(first, last) % 7,
        "score": draw[:, 0],
        "curve": draw,
    }
    write_table(path, columns, settings)
    return path


def test_large_tables_are_merged_to_the_same_bytes(tmp_path):
    """Beyond a page of a column; NaN and metadata stay."""
    whole = table(tmp_path / "whole", 0, 70_000, seed=1)
    pieces = [table(tmp_path / f"{n}", n * 17_500, (n + 1) * 17_500, seed=1) for n in range(4)]
    assert main([*map(str, pieces), "--output", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged").read_bytes() == whole.read_bytes()
    assert read_settings(tmp_path / "merged") == {"seed": 1}


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    first = table(tmp_path / "1", 0, 5, seed=1)
    cases = {
        "were made with different settings": table(tmp_path / "2", 5, 9, seed=2),
        "does not have the columns of": table(tmp_path / "3", 5, 9, width=4, seed=1),
        "image000004 is in two shards": table(tmp_path / "4", 4, 9, seed=1),
    }
    for message, other in cases.items():
        with pytest.raises(FggError, match=message):
            merge([first, other], tmp_path / "merged")
    write_empty(tmp_path / "5", {"seed": 1})
    with pytest.raises(FggError, match="have no images"):
        merge([tmp_path / "5"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge([tmp_path / "5", first], tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == first.read_bytes()
