# %% [markdown]
# # First steps
#
# Which patches of an image made a Vision Transformer say what it said? Several methods answer with a map, and the
# answers differ. fgg computes such maps, can *gate* them with the features of sparse autoencoders (SAEs), and measures
# whether a map is faithful: whether the model reacts to a patch as the map says.
#
# This notebook takes a finished run of the workflow (`make results`) if there is one in the repository. Otherwise it
# trains a small model of handwritten digits first, which takes half a minute on one core. It needs no network.

# %%
import sys
import warnings
from pathlib import Path

sys.path.insert(0, "..")  # for a clone in which fgg is not installed: notebooks run in examples/
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm would like ipywidgets

import fgg

finished = Path("..", "data", "models", "elpv", "model.json").is_file()
run = fgg.open_run("..", "elpv") if finished else fgg.example_run()
run

# %% [markdown]
# ## How good are the model and its SAEs?
# A map of a model that guesses explains a guess. An SAE that loses much of the residual stream gives scores of a model
# that does not exist. So look here first: `explained_variance` should be near 1, `same_prediction` (the share of
# predictions that stay when the SAE's reconstruction takes the place of the residual stream) too. The accuracy of a
# logistic regression on grey pixels stands beside the model's.

# %%
tested = run.accuracy["test"]
print(
    f"model {tested['accuracy']:.3f}, logistic regression {tested['logistic_regression_accuracy']:.3f}"
)
run.sae_quality()[["layer", "explained_variance", "l0", "dead_share", "same_prediction"]].round(3)

# %% [markdown]
# ## Maps
# TransMM multiplies each attention by its gradient and follows it through the blocks. The gate multiplies the attention
# to a patch by a factor between 1/10 and 10, taken from the SAE's features there: activation times gradient, summed.

# %%
images = run.images(60)
plain = fgg.attribute(run.model, images.tensors)
gate = fgg.Gate(layers=(1, 2))
gated = fgg.attribute(run.model, images.tensors, gate=gate, saes=run.saes)
axes = gated.show(images, most=4)

# %% [markdown]
# The gate's effect on one image, before and after. Each map has its own scale of colours, since a gate changes the size of
# the values, and one scale would hide the weaker map. The difference is that of the values themselves: where a gate made
# the whole map larger, it is red everywhere.

# %%
chosen = int(plain.confidence.argmax())
axes = fgg.plot.compare(
    images.picture(chosen),
    plain.relevance[chosen],
    gated.relevance[chosen],
    preprocess=run.preprocess,
    grid=plain.grid,
)
label = axes[0].set_ylabel(f"{images.image_ids[chosen]}: {run.classes[plain.predicted[chosen]]}")

# %%
axis = fgg.plot.gates(gated.gates, title="gates of all patches of all images")

# %% [markdown]
# About half of the gates lie above 1 and half below. That is no finding: the score is centred at its median in each image.
#
# ## Is the gated map more faithful?
# Replace patches by the image's mean, the most relevant first, and follow the probability of the class: the sooner it
# falls, the better. Least relevant first, it should stay. SRG is the area between the two curves; random maps have 0 on
# average. Two controls stand beside the gate: the same gate through a *shuffled* decoder, whose features point in wrong
# directions, and a *random* map.
#
# On some images the probability hardly falls even when every patch is replaced. Nothing can be measured there, so these
# images are left out.

# %%
shuffled = fgg.Gate(layers=(1, 2), shuffle_decoder=True)
maps = {
    "TransMM": plain,
    "gated": gated,
    "gated, shuffled": fgg.attribute(run.model, images.tensors, gate=shuffled, saes=run.saes),
    "random": fgg.attribute(run.model, images.tensors, method="random", image_ids=images.image_ids),
}
step = plain.relevance.shape[1] // 10
curves = {
    name: fgg.order_curves(run.model, images.tensors, found.relevance)
    for name, found in maps.items()
}
clean_and_filled = curves["TransMM"].mif(step)[:, [0, -1]]
measurable = clean_and_filled[:, 0] - clean_and_filled[:, 1] >= 0.05
print(f"{int(measurable.sum())} of {len(images)} images are measurable")
axis = fgg.plot.curve(
    {name: own.mif(step)[measurable] for name, own in curves.items()},
    title="Pixel Flipping: lower is better",
)

# %%
srg = {name: own.area(own.lif(step)) - own.area(own.mif(step)) for name, own in curves.items()}
for name, scores in srg.items():
    differences = (scores - srg["TransMM"])[measurable]
    error = differences.std() / len(differences) ** 0.5
    beside = (
        "" if name == "TransMM" else f"   minus TransMM: {differences.mean():+.3f} ± {error:.3f}"
    )
    print(f"{name:<16} SRG {scores[measurable].mean():+.3f}{beside}")

# %% [markdown]
# ## What these numbers can say, and what they cannot
# The differences are paired: the same images, with and without the gate; ± is one standard error. A difference of less
# than two of them is no finding. And if the shuffled decoder does as well as the gate, then what the features *mean* was
# not what mattered.
#
# One model, one seed, one way to replace a patch: another choice of each can turn the sign. The workflow repeats the
# comparison over metrics, fills, controls and seeds, adjusts for the number of tests, and says for each verdict whether
# the order of the patches or the spread of the values made it. `fgg run` starts it; `fgg.read_results` reads its tables.

# %%
if finished and Path("..", "results", "summary.csv").is_file():
    print(run.results)
else:
    print("no finished run here; `make results` makes one in about ten minutes")
