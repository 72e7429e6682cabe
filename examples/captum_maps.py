"""Maps by another library, for fgg to score: captum's Integrated Gradients of the images that a run explains.

After the main job, in its folder, with captum installed (pip install captum):

    python examples/captum_maps.py --dataset elpv --output captum.parquet

Then add to a configuration of your own, and run the workflow with it:

    experiments:
      external: {integrated_gradients: captum.parquet}
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that fgg need not be installed

from fgg.data.load import explained_split
from fgg.models import model_files
from fgg.tables import read_settings, read_table, write_table


def main() -> None:
    """Explain every image of the dataset's results, and write a map per pixel for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument("--split", default="test", help="the split that the run explains")
    parser.add_argument(
        "--steps", type=int, default=20, help="points between the black image and the image"
    )
    parser.add_argument("--output", type=Path, required=True, help="table to write (.parquet)")
    arguments = parser.parse_args()
    from captum.attr import IntegratedGradients

    model, preprocess, _ = model_files.load(
        Path("data/models", arguments.dataset), torch.device("cpu")
    )
    explained = Path("results", arguments.dataset, "attributions", "transmm.parquet")
    settings = read_settings(explained)
    images = Path("data/prepared", arguments.dataset, f"{arguments.split}.parquet")
    split = explained_split(images, settings)
    method, target = (
        IntegratedGradients(model),
        torch.tensor(read_table(explained, ["target"])["target"].to_pylist()),
    )
    maps = []
    for start in range(0, len(split), 8):
        batch = split.tensors(preprocess, slice(start, start + 8))
        found = method.attribute(batch, target=target[start : start + 8], n_steps=arguments.steps)
        maps.append(
            found.sum(1).flatten(1).float().numpy()
        )  # channels summed: height x width values per image
    columns = {"image_id": split.image_ids, "relevance": np.concatenate(maps)}
    write_table(
        arguments.output,
        columns,
        {"method": "captum Integrated Gradients", "steps": arguments.steps},
    )
    print(f"{len(split)} maps in {arguments.output}")


if __name__ == "__main__":
    main()
