# %% [markdown]
# # A method and a metric of your own
#
# A method is one function with a decorator that says what it is; so is a metric. The names of the function's parameters
# say what it is given. Both live in a file on Python's path, and are named `module:function`, here and in the
# configuration of the workflow. Nothing in fgg changes.

# %%
import sys
import warnings
from pathlib import Path

sys.path.insert(0, "..")  # for a clone in which fgg is not installed: notebooks run in examples/
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm would like ipywidgets

import torch

import fgg

run = fgg.example_run()
images = run.images(40)

# %% [markdown]
# ## The file
# The method averages the attention that the class token pays in the last blocks. The metric asks how much probability is
# lost when the most relevant fifth of the patches is replaced. What the decorators state must be literals: the workflow
# reads them without running the file.

# %%
SOURCE = '''
"""An attribution method and a faithfulness metric."""

import torch

from fgg import method, metric


@method(
    title="Late attention",
    citation="an example",
    needs=("attention",),
    forward_passes=1,
    backward_passes=0,
    assumes="tokens of the last blocks still stand for their own patches; it is the same for every class",
)
def late_attention(captured, last=2):
    """The class token's attention to the patches, averaged over heads and over the last blocks: (B, N)."""
    return torch.stack(captured.attention[-last:]).mean(0)[:, 0, 1:]


@metric(
    title="Early drop",
    citation="an example",
    higher_is_better=True,
    lowest=-1.0,
    highest=1.0,
    quantity="drop of p(class)",
    definition="how much probability is lost when the most relevant patches are filled?",
    assumes="a filled patch carries no information",
    passes="two",
    reads="order",
    settings={"share": {"description": "Share of the patches that is filled.", "type": "number", "default": 0.2}},
)
def early_drop(curves, share=0.2):
    """The clean probability minus that with the share of most relevant patches filled: (B,)."""
    filled = max(1, round(share * curves.relevance.shape[1]))
    curve = curves.mif(filled)
    return curve[:, 0] - curve[:, 1]
'''
Path("my_scores.py").write_text(SOURCE)
sys.path.insert(0, ".")  # so that my_scores is found

# %% [markdown]
# ## Use the method
# Options of the function are options of `fgg.attribute`.

# %%
late = fgg.attribute(run.model, images.tensors, method="my_scores:late_attention")
latest = fgg.attribute(run.model, images.tensors, method="my_scores:late_attention", last=1)
axes = late.show(images, most=4)

# %% [markdown]
# ## Check the method
# Three checks that every method of fgg has to pass: one image at a time gives what the batch gives; a second call gives
# the same bits; the model leaves as it came. And one for its meaning: this map is blind to the class, so it cannot say why
# the model chose *this* class. Here that is by design, and `assumes` says it.

# %%
before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
again = fgg.attribute(run.model, images.tensors, method="my_scores:late_attention").relevance
alone = torch.cat(
    [
        fgg.attribute(run.model, each[None], method="my_scores:late_attention").relevance
        for each in images.tensors
    ]
)
other = fgg.attribute(
    run.model, images.tensors, method="my_scores:late_attention", target=0
).relevance
assert torch.equal(again, late.relevance), "not the same twice"
assert torch.allclose(alone, late.relevance, atol=1e-5), "a batch is not its images"
assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items()), (
    "the model has changed"
)
print("the map depends on the class:", not torch.equal(other, late.relevance))

# %% [markdown]
# ## Use the metric
# A decorated function stays an ordinary function. This one reads `curves`: the probability while patches are replaced,
# which `fgg.order_curves` computes. Only images that can be measured count: those that lose at least 0.05 of their
# probability when everything is replaced.

# %%
from my_scores import early_drop

maps = {
    "late attention": late,
    "last block only": latest,
    "TransMM": fgg.attribute(run.model, images.tensors),
    "random": fgg.attribute(run.model, images.tensors, method="random", image_ids=images.image_ids),
}
scores = {}
for name, found in maps.items():
    curves = fgg.order_curves(run.model, images.tensors, found.relevance)
    ends = curves.mif(8)[:, [0, -1]]
    measurable = ends[:, 0] - ends[:, 1] >= 0.05
    scores[name] = early_drop(curves)[measurable]
for name, own in scores.items():
    print(f"{name:<16} {own.mean():+.3f} ± {own.std() / len(own) ** 0.5:.3f}   ({len(own)} images)")

# %% [markdown]
# ## Check the metric
# What does a metric say of maps whose worth is known? A metric that cannot tell a map from a random one measures nothing.
# TransMM should score above a random map, and above its own negative. The share of images on which that holds says how far
# the score of a single image can be trusted.

# %%
upside_down = early_drop(fgg.order_curves(run.model, images.tensors, -maps["TransMM"].relevance))[
    measurable
]
print(
    f"TransMM above random:          {(scores['TransMM'] > scores['random']).double().mean():.0%} of the images"
)
print(f"TransMM above its negative:    {(scores['TransMM'] > upside_down).double().mean():.0%}")

# %% [markdown]
# A filled image is none that the model has seen in training. A drop may come from the strange look of the filled patches
# as well as from what was under them; no metric that fills patches can tell the two apart by itself. Try a second fill
# (`fgg.order_curves(…, fill="removal")` leaves the tokens out) before you believe a difference.
#
# ## In the workflow
# With `my_scores.py` in the folder where `fgg run` starts, or on `PYTHONPATH`:
#
# ```yaml
# experiments:
#   baselines: [random, transmm, "my_scores:late_attention", {method: "my_scores:late_attention", options: {last: 1}}]
# metrics:
#   "my_scores:early_drop": {share: 0.2}
# ```
#
# Tables, tests and figures then know both by their titles.
