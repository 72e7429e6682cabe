# %% [markdown]
# # Your own model and images
#
# Any Vision Transformer of timm, its weights in a file, and a folder of images. Most wrong maps come from a model that
# was loaded wrongly: other preprocessing than in its training, or another order of the classes. So this notebook spends
# half of its cells on checking that.
#
# As a stand-in for your files it writes some: the weights of a small model of handwritten digits as a plain PyTorch state
# dict, and 100 images as PNG files. Put your own paths in their place.

# %%
import sys
import warnings
from pathlib import Path

sys.path.insert(0, "..")  # for a clone in which fgg is not installed: notebooks run in examples/
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm would like ipywidgets

import torch
from PIL import Image

import fgg

example = fgg.example_run()
weights, folder = Path("mine.pt"), Path("mine")
torch.save(example.model.state_dict(), weights)
stored = example.images(100)
for place, (name, label) in enumerate(zip(stored.image_ids, stored.label_names, strict=True)):
    (folder / label).mkdir(parents=True, exist_ok=True)
    stored.picture(place).save(folder / label / f"{name}.png")

# %% [markdown]
# ## Load the model
# The architecture is timm's name; `kwargs` are timm's arguments where yours differ from the name's. A file that does not
# fit ends with the names of the tensors that differ. Checkpoints of transformers, open_clip, DINOv2 and others are read
# too.

# %%
kwargs = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 2,
    "mlp_ratio": 2,
}
classes = sorted(
    path.name for path in folder.iterdir()
)  # class i is the i-th folder in alphabetical order
model = fgg.load_model("vit_tiny_patch16_224", kwargs, weights=weights, num_classes=len(classes))

# %% [markdown]
# ## Load the images
# `Preprocess` does what your evaluation code does before the model: resize, crop, mean and standard deviation.

# %%
files = sorted(folder.glob("*/*.png"))
pictures = [Image.open(file) for file in files]
labels = torch.tensor([classes.index(file.parent.name) for file in files])
preprocess = fgg.Preprocess(32, mean=example.preprocess.mean, std=example.preprocess.std)
images = torch.stack([preprocess(picture) for picture in pictures])

# %% [markdown]
# ## Check before you explain
# Is the accuracy the one that you know? The other two lines show what a wrong loading looks like. Wrong preprocessing
# may cost so little accuracy that it goes unnoticed, and every map is then one of a model in other conditions.


# %%
def accuracy(inputs, order=labels):
    with torch.no_grad():
        return float((model(inputs).argmax(-1) == order).float().mean())


imagenet = fgg.Preprocess(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
print(f"as trained                    {accuracy(images):.2f}")
print(
    f"mean and deviation of ImageNet {accuracy(torch.stack([imagenet(each) for each in pictures])):.2f}"
)
print(f"classes in reverse order      {accuracy(images, len(classes) - 1 - labels):.2f}")

# %% [markdown]
# ## Explain
# `fgg.methods()` lists the methods, what each assumes and what it costs. Several of them on four images:

# %%
few = [0, 25, 50, 75]
methods = ["transmm", "rollout", "gradcam", "integrated_gradients"]
found = {name: fgg.attribute(model, images[few], method=name) for name in methods}
for name, own in found.items():
    axes = own.show([pictures[place] for place in few], preprocess=preprocess)
    axes[0, 0].figure.suptitle(f"{fgg.methods()[name].title} ({fgg.methods()[name].cost})")

# %% [markdown]
# They do not agree, though all explain the same four predictions. The rank correlation of their maps says how much:
# 1 is the same order of patches, 0 is none in common. It does not say which of them is right.

# %%
import pandas as pd

ranks = {name: own.relevance.argsort(-1).argsort(-1).float() for name, own in found.items()}
agreement = pd.DataFrame(
    {
        a: {b: sum(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in zip(x, y, strict=True)) / len(x)
            for b, y in ranks.items()}
        for a, x in ranks.items()
    }
)  # fmt: skip
agreement.round(2)

# %% [markdown]
# ## Score
# SRG: the area under the probability with the least relevant patches replaced first, minus that with the most relevant
# first. It is higher for a better order of the patches, 0 on average for random maps. Two fills, since a method can
# look good with one and not with the other: the image's mean, and leaving the patch's token out.

# %%
some = slice(0, 100, 2)
scores = {}
for name in methods:
    relevance = fgg.attribute(model, images[some], method=name).relevance
    scores[name] = {
        fill: float(fgg.srg(model, images[some], relevance, patches_per_step=8, fill=fill).mean())
        for fill in ("mean", "removal")
    }
pd.DataFrame(scores).T.round(3)

# %% [markdown]
# ## Why not another class?
# `target` explains any class. The map for a class that the model thinks unlikely shows what speaks for it, and is no
# better tested by metrics of the predicted class.

# %%
other = int(model(images[few[:1]])[0].topk(2).indices[1])
print(f"image {files[0].name}: class {classes[labels[0]]}, second choice {classes[other]}")
second = fgg.attribute(model, images[few[:1]], target=other)
axes = second.show([pictures[0]], preprocess=preprocess, names=[f"why {classes[other]}?"])

# %% [markdown]
# ## Keep the numbers
# `to_dataframe` gives a row per image and patch; `fgg.to_pixels` enlarges maps to the size of the images.

# %%
frame = found["transmm"].to_dataframe([files[place].stem for place in few])
frame.to_csv("maps.csv", index=False)
frame.head()

# %% [markdown]
# ## The whole comparison
# With controls, tests and a report, the workflow does the same for all images. Save this as `mine.yaml`, and
# `fgg run --config mine.yaml` in a folder of your choice. `docs/own-data.md` says more.
#
# ```yaml
# run: [mine]
# datasets:
#   mine:
#     source: image_folder
#     path: mine                      # <class>/*.png
#     model:
#       architecture: vit_tiny_patch16_224
#       kwargs: {img_size: 32, patch_size: 4, embed_dim: 64, depth: 6, num_heads: 2, mlp_ratio: 2}
#       weights: mine.pt
#     preprocess: {resize: 32, mean: [0.305, 0.305, 0.305], std: [0.323, 0.323, 0.323]}
#     sae: {layers: [1, 2], weights: train}
# ```
