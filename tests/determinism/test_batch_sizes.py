"""Tables made with other batch sizes agree to five digits: the order of a matrix product's sums depends on its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictures import draw
from tiny_dataset import METRICS, RUN, untrained
from zoo import make_sae

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job as Attribution
from fgg.faithfulness.__main__ import run as score
from fgg.faithfulness.job import Job as Scoring
from fgg.faithfulness.responses import run as respond
from fgg.jobs.shards import WHOLE
from fgg.models import model_files
from fgg.models.vit import load_model
from fgg.saes import build_sae
from fgg.tables import read_table

DIGITS = 1e-5  # of the largest magnitude in the column; measured: 3e-6
GATE = {"layers": [0], "construction": "combined", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
PLAIN = {"transmm": {"method": "transmm"}}
EXPERIMENTS = {**PLAIN, "gated": {"method": "transmm", "gate": GATE, "control": None}}
WIDE = {"img_size": 32, "patch_size": 8, "embed_dim": 768, "depth": 2, "num_heads": 12, "mlp_ratio": 4}  # as ViT-B


def narrow(folder: Path) -> dict:
    """A narrow model and an SAE of it, and 27 images; returns the experiments."""
    untrained(folder, draw(folder / "pictures", per_class=15))
    (folder / "sae").mkdir()
    build_sae.save_inference(make_sae(10), folder / "sae")
    return EXPERIMENTS


def wide(folder: Path) -> dict:
    """A model as wide as ViT-B, and 9 images; returns the experiment."""
    untrained(folder, draw(folder / "pictures", per_class=5))
    record = model_files.load(folder / "model", "cpu")[2]
    torch.manual_seed(0)
    model_files.save(
        folder / "model", load_model(record["architecture"], WIDE, num_classes=3), {**record, "kwargs": WIDE}, {}
    )
    return PLAIN


def made(folder: Path, experiments: dict, batch: int) -> dict[str, pa.Table]:
    """All tables of the experiments, with a batch size."""
    images, model, own = folder / "data" / "test.parquet", folder / "model", folder / f"batches of {batch}"
    settings = {**RUN, "batch_size": batch}
    respond(model, images, {**METRICS["faithfulness_correlation"], **settings}, own / "responses.parquet", WHOLE)
    for name, experiment in experiments.items():
        gates = own / f"{name}-gates.parquet" if "gate" in experiment else None
        saes = {0: folder / "sae"} if gates else {}
        attribute(Attribution(model, images, experiment, settings, own / f"{name}.parquet", gates, saes, WHOLE))
        scored = {"metrics": METRICS, "protocol": "corrected", **settings}
        places = (own / f"{name}.parquet", scored, own / f"{name}-scores.parquet", own / "responses.parquet")
        score(Scoring(model, images, *places, WHOLE))
    return {path.name: read_table(path) for path in sorted(own.glob("*.parquet"))}


def of_floats(kind: pa.DataType) -> bool:
    """Whether a column holds floats, or lists of them."""
    return pa.types.is_floating(kind.value_type if pa.types.is_fixed_size_list(kind) else kind)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers, or of lists of numbers."""
    return np.asarray(column.to_pylist(), dtype=np.float64)


@pytest.mark.parametrize(("model", "sizes"), [(narrow, (1, 3, 8, 32)), (wide, (1, 8))])
def test_other_batch_sizes_agree_to_five_digits(model, sizes, tmp_path):
    experiments = model(tmp_path)
    first, *others = (made(tmp_path, experiments, size) for size in sizes)
    largest = 0.0
    for other in others:
        assert first.keys() == other.keys() and len(first) == 1 + 2 * len(experiments) + ("gated" in experiments)
        for name, table in first.items():
            for column in table.column_names:
                if not of_floats(table[column].type):
                    assert table[column] == other[name][column], (name, column)
                    continue
                one, two = numbers(table[column]), numbers(other[name][column])
                assert (np.isnan(one) == np.isnan(two)).all(), (name, column)
                scale = np.nanmax(np.abs(one), initial=0)
                np.testing.assert_allclose(two, one, rtol=0, atol=DIGITS * scale, err_msg=f"{name} {column}")
                largest = max(largest, np.nanmax(np.abs(one - two), initial=0) / scale if scale else 0)
    assert largest > 0, "the sums of the batches have another order, else this test shows nothing"
