# %% [markdown]
# # Explain an image from Python
#
# Cells for a notebook: editors such as VS Code and Spyder run them one by one, `jupytext` makes an .ipynb of them,
# and `python examples/explain.py` runs them all. The main job (`make results`) must have run: the cells load the
# model, the SAEs and the images of a dataset from `data/`.

# %%
import os
import sys

import torch

if "__file__" in globals():  # so that fgg need not be installed
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))  # noqa: PTH118, PTH120

import fgg
from fgg.data.load import load_split
from fgg.models import model_files

DATASET, LAYERS = "elpv", (1, 2)
if len(sys.argv) == 3 and "__file__" in globals():  # python examples/explain.py mine 1,3
    DATASET, LAYERS = sys.argv[1], tuple(int(layer) for layer in sys.argv[2].split(","))

# %% [markdown]
# ## Load the model, its SAEs, and a few images
# `preprocess` turns a picture into the model's input; `images` is (8, C, H, W).

# %%
model, preprocess, record = model_files.load(f"data/models/{DATASET}", torch.device("cpu"))
saes = {layer: fgg.load_sae(f"data/saes/{DATASET}/layer_{layer}") for layer in LAYERS}
split = load_split(f"data/prepared/{DATASET}/test.parquet", max_images=8)
images = split.tensors(preprocess)

# %% [markdown]
# ## Attribute
# Without a gate, and with one: `relevance` is (8, N), a number per patch, row by row.

# %%
plain = fgg.attribute(model, images)
gated = fgg.attribute(model, images, gate=fgg.Gate(layers=LAYERS), saes=saes)
for name, label, predicted, confidence in zip(
    split.image_ids, split.label_names, gated.predicted, gated.confidence, strict=True
):
    print(f"{name}: {label}, predicted {record['classes'][predicted]} ({confidence:.0%})")

# %% [markdown]
# ## Look
# Every function of `fgg.plot` takes `ax=` and returns matplotlib axes, so that they go into figures of your own.

# %%
chosen = int(gated.confidence.argmax())
picture = split.picture(chosen)
axes = fgg.plot.compare(picture, plain.relevance[chosen], gated.relevance[chosen], preprocess=preprocess)
axes[0].set_ylabel(split.image_ids[chosen])
axes[0].figure.savefig("compare.png", dpi=150)

# %%
axis = fgg.plot.overlay(picture, gated.relevance[chosen], preprocess=preprocess, title="gated", smooth=True)
fgg.plot.mark(axis, int(gated.relevance[chosen].argmax()))
axis.figure.savefig("overlay.png", dpi=150)

# %%
axis = fgg.plot.gates(gated.gates, title="gates of all patches")
axis.figure.savefig("gates.png", dpi=150)

# %% [markdown]
# ## Score
# Is the gated map more faithful? Fill the patches, most relevant first: the sooner the probability falls, the better.

# %%
curves = {
    "TransMM": fgg.pixel_flipping(model, images, plain.relevance).curve,
    "gated": fgg.pixel_flipping(model, images, gated.relevance).curve,
}
axis = fgg.plot.curve(curves, title="Pixel Flipping: lower is better")
axis.figure.savefig("pixel-flipping.png", dpi=150)
for name, relevance in (("TransMM", plain.relevance), ("gated", gated.relevance)):
    print(f"SaCo of {name}: {fgg.saco(model, images, relevance).nanmean():+.3f} (higher is better)")
