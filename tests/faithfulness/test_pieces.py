"""Images worked through in pieces, by separate jobs, get the scores that they get in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_dataset import METRICS, RUN, untrained

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job as Attribution
from fgg.faithfulness.__main__ import run as score
from fgg.faithfulness.job import Job as Scoring
from fgg.faithfulness.responses import run as respond
from fgg.tables import matrix, read_table

GATE = {"layers": [1], "construction": "no_sae", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
EXPERIMENT = {"method": "transmm", "gate": GATE, "control": "permuted_gate"}


def work_through(folder: Path, model: Path, images: Path, batch_size: int) -> dict[str, np.ndarray]:
    """Attribute, ask and score the images of a file; relevance and scores by image id, in its order."""
    settings = {**RUN, "batch_size": batch_size}
    relevance, gates, answers, scores = (folder / name for name in ("r.parquet", "g.parquet", "a.parquet", "s.parquet"))
    attribute(Attribution(model, images, EXPERIMENT, settings, relevance, gates))
    respond(model, images, {**METRICS["faithfulness_correlation"], **settings}, answers)
    asked = {"metrics": METRICS, "protocol": "corrected", **settings}
    score(Scoring(model, images, relevance, asked, scores, answers))
    table = read_table(scores)
    found = {name: np.asarray(table[name]) for name in ("saco", "faithfulness_correlation", "pixel_flipping")}
    return {"id": np.asarray(table["image_id"]), "relevance": matrix(read_table(relevance), "relevance"), **found}


@pytest.mark.parametrize(("pieces", "batch_size"), [(2, 4), (7, 3), (1, 5)])
def test_pieces_and_batches_do_not_matter(pieces, batch_size, tmp_path, pictures_folder):
    untrained(tmp_path, pictures_folder)
    whole_file = tmp_path / "data" / "test.parquet"
    whole = work_through(tmp_path / "whole", tmp_path / "model", whole_file, batch_size=6)

    table = pq.read_table(whole_file)
    # Every piece has every class, which a split must.
    order = np.argsort(np.asarray(table["label"]), kind="stable")
    draw = np.random.default_rng(0)
    parts = []
    for number in range(pieces):
        rows = draw.permutation(order[number::pieces])
        file = tmp_path / f"piece{number}.parquet"
        pq.write_table(table.take(pa.array(rows)), file)
        parts.append(work_through(tmp_path / f"out{number}", tmp_path / "model", file, batch_size))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    back = np.argsort(joined["id"])
    assert (joined["id"][back] == whole["id"]).all()
    largest = whole["relevance"].max(1, keepdims=True)
    np.testing.assert_allclose(joined["relevance"][back] / largest, whole["relevance"] / largest, atol=1e-4)
    for name in ("saco", "faithfulness_correlation", "pixel_flipping"):
        np.testing.assert_allclose(joined[name][back], whole[name], atol=1e-5, err_msg=name)
