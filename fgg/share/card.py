"""The model card of shared SAEs: ``README.md`` with front matter that the hub reads. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fgg import __version__
from fgg.comparison.quality import LEVELS, sae_warnings
from fgg.share.folder import SharedSae
from fgg.visible import markdown_code, markdown_plain, visible

TAGS = ("sparse-autoencoder", "sae", "vision-transformer", "mechanistic-interpretability", "explainability", "fgg")
ANYWHERE = "OWNER/REPO"
MEANINGS = {
    "explained_variance": "explained variance of the residuals, 1 is best",
    "fvu": "fraction of variance unexplained, 0 is best",
    "cosine_similarity": "cosine of residual and reconstruction, mean over tokens",
    "l0": "active features per token, mean",
    "dead_share": "share of features that are never active",
    "dense_share": "share of features that are active on more than a tenth of the tokens",
    "features": "features",
    "width": "width of the residual stream",
    "tokens": "held-out tokens measured",
    "same_prediction": "share of images whose prediction stays with the reconstruction in place",
    "kl": "KL divergence of the predictions with the reconstruction in place, nats",
    "accuracy_before": "accuracy of the model",
    "accuracy_after": "accuracy with the reconstruction in place",
    "loss_recovered": "share of the loss that the reconstruction wins back, 1 is best",
    "downstream_images": "held-out images on which predictions were compared",
}


@dataclass
class Facts:
    """What a card says beside the SAEs themselves; all of it may be missing.

    Attributes:
        data: what the record of the images holds.
        model: ``architecture``, ``sha256``, ``kwargs`` and ``preprocess`` of the model.
        licence: the identifier of the SAEs' licence; None if it is not known.
        licence_link: where it can be read.
        figures: layer -> file of a figure of features and what it shows.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    licence_link: str | None = None
    figures: Mapping[int, tuple[str, str]] = field(default_factory=dict)


def model_card(dataset: str, saes: Sequence[SharedSae], facts: Facts, repository: str | None = None) -> str:
    """The card's text, in Markdown with front matter.

    Args:
        repository: OWNER/REPO on the hub, if it is known.
    """
    layers = _and([str(sae.layer) for sae in saes])
    noun = "an SAE (sparse autoencoder)" if len(saes) == 1 else "SAEs (sparse autoencoders)"
    parts = [
        _front_matter(facts),
        f"# SAEs of layer {layers}, {markdown_plain(dataset)}\n",
        f"This folder has {noun} of the residual stream of a Vision Transformer, at the end of block {layers}, counted from 0. fgg {__version__} wrote it.\n",
        "## Place\n",
        _table(
            ["folder", "hook", "checked", "kind", "architecture", "width", "features", "SHA-256 of the weights"],
            [_place(sae) for sae in saes],
        ),
        *_model(saes, facts.model),
        "## Data\n",
        *_data(dataset, saes, facts.data),
        "## Quality\n",
        *_quality(saes),
        *_figures(facts.figures),
        "## Use\n",
        *_use(saes[0], repository or ANYWHERE, saes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _front_matter(facts: Facts) -> str:
    matter: dict[str, Any] = {"license": facts.licence or "unknown"}
    if facts.licence_link:
        matter |= {"license_name": "custom"} if facts.licence == "other" else {}
        matter["license_link"] = facts.licence_link
    matter |= {"library_name": "saelens", "tags": list(TAGS)}
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---\n"


def _place(sae: SharedSae) -> list[str]:
    said, config = sae.metadata, sae.config
    hook = said.get("hook_name") or f"blocks.{sae.layer}.hook_resid_post"
    architecture = str(config.get("architecture") or "standard") + (f", k = {config['k']}" if config.get("k") else "")
    return [
        markdown_code(sae.name),
        markdown_code(hook),
        markdown_plain(said.get("place") or "not said"),
        markdown_plain(said.get("kind") or "not said").replace("_", " "),
        markdown_plain(architecture),
        markdown_plain(config.get("d_in")),
        markdown_plain(config.get("d_sae")),
        markdown_code(sae.digest),
    ]


def _model(saes: Sequence[SharedSae], given: Mapping[str, Any]) -> Iterator[str]:
    said = next((own for sae in saes if isinstance(own := sae.metadata.get("model"), Mapping)), {})
    model = {**given, **said}
    if not model:
        yield "The model is not named.\n"
        return
    architecture, digest = (markdown_code(model.get(key) or "not said") for key in ("architecture", "sha256"))
    yield f"Model: {architecture} of timm; SHA-256 of its weights {digest}."
    yield "The weights are not part of this folder. The SAEs fit these weights only.\n"
    for name, words in (("kwargs", "Options for timm"), ("preprocess", "Preparation of the images")):
        if model.get(name):
            yield f"{words}:\n\n```json\n{visible(json.dumps(model[name], sort_keys=True))}\n```\n"


def _data(dataset: str, saes: Sequence[SharedSae], data: Mapping[str, Any]) -> Iterator[str]:
    said = saes[0].metadata
    loaded = said.get("kind") == "loaded"
    rows = [["data set", markdown_code(said.get("dataset") or ("not said" if loaded else dataset))]]
    if loaded and said.get("dataset") != dataset:
        rows.append(["measured on", markdown_code(dataset)])
    counts = data.get("counts", {})
    for key, words in (("split", "split that the SAEs learnt from"), ("tokens_seen", "tokens seen"), ("seed", "seed")):
        if said.get(key) is not None:
            number = isinstance(said[key], int | float)
            rows.append([words, f"{said[key]:,}" if key == "tokens_seen" and number else markdown_plain(said[key])])
    if said.get("normalisation") not in (None, "none"):
        rows.append(["normalisation in training, folded in", markdown_plain(said["normalisation"])])
    if counts:
        rows.append(["images", ", ".join(f"{split} {sum(own.values()):,}" for split, own in counts.items())])
    if data.get("classes"):
        rows.append(["classes", f"{len(data['classes']):,}"])
    for key, words in (("source", "source"), ("licence", "licence of the images"), ("citation", "citation")):
        if data.get(key):
            rows.append([words, markdown_plain(data[key])])
    yield _table(["", ""], rows)


def _quality(saes: Sequence[SharedSae]) -> Iterator[str]:
    keys = [key for sae in saes for key, value in sae.measured.items() if _is_number(value) and key != "layer"]
    if not keys:
        yield "It has not been measured.\n"
        return
    rows = [
        [
            markdown_code(key),
            MEANINGS.get(key, markdown_plain(key.replace("_", " "))),
            *(_number(sae.measured.get(key)) for sae in saes),
        ]
        for key in dict.fromkeys(keys)
    ]
    yield "On held-out images:\n"
    yield _table(["measure", "meaning", *(f"layer {sae.layer}" for sae in saes)], rows)
    for sae in saes:
        weak = list(sae_warnings(sae.layer, sae.measured, LEVELS)) if "explained_variance" in sae.measured else []
        for warning in [*(sae.measured.get("warnings") or []), *weak]:
            yield f"- layer {sae.layer}: {markdown_plain(warning)}\n"
        if chosen := sae.measured.get("chosen"):
            yield f"- layer {sae.layer}: chosen on these images: {markdown_plain(chosen)}\n"


def _figures(figures: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    if figures:
        yield "## Features\n"
    for layer, (file, words) in figures.items():
        yield f"Layer {layer}: {words}.\n\n![Features of layer {layer}: {words}]({file})\n"


def _use(first: SharedSae, repository: str, saes: Sequence[SharedSae]) -> Iterator[str]:
    numbers = ", ".join(str(sae.layer) for sae in saes)
    width, features = (visible(str(first.config.get(key))) for key in ("d_in", "d_sae"))
    yield f"""With fgg, in a configuration:

```yaml
sae:
  layers: [{numbers}]
  weights: hf://{repository}/layer_{{layer}}
```

or in Python, with this folder on the disk:

```python
import fgg

sae = fgg.load_sae("{first.name}")
```

With sae-lens:

```python
from sae_lens import SAE

sae = SAE.from_pretrained("{repository}", "{first.name}")   # or SAE.load_from_disk("{first.name}")
codes = sae.encode(residual)      # (…, {width}) to (…, {features})
again = sae.decode(codes)
```

`residual` is what block {first.layer} of the model gives, at the patches; of a timm model without the prefix tokens:

```python
kept = []
model.blocks[{first.layer}].register_forward_hook(lambda module, inputs, output: kept.append(output))
model(images)
residual = kept[0][:, model.num_prefix_tokens:]
```
"""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[" ".join(str(cell).replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if not _is_number(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
