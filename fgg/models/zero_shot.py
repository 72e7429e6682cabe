"""CLIP as a classifier: a timm image tower with a frozen head of text embeddings.

logits = temperature * normalised image embedding @ normalised text embeddings. Each class is described by its name
in a few templates. open_clip's text tower embeds them; it is needed only to make the head.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fgg.errors import FggError, names
from fgg.models.checkpoints import UNREADABLE, first_line, read
from fgg.models.vit import fill, load_model

ARTICLE, NAME = "a/an", "{name}"
VOWELS = "aeiou"
LOCAL, HUB, SHORT_HUB = "local-dir:", "hf-hub:", "hf://"
TEXTS_PER_BATCH = 64
# Relative to an embedding's length: towers with the same weights differ by rounding, others by 0.1 and more.
SAME_TOWER = 1e-3


class ZeroShotHead(nn.Module):
    """Scaled cosines between projected features and text embeddings; replaces timm's head.

    Before its weights are loaded, projection and texts are random. D width, E embedding, K classes.
    """

    text: Tensor

    def __init__(self, width: int, embedding: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.projection = nn.Linear(width, embedding, bias=False)
        self.temperature = temperature
        self.register_buffer("text", functional.normalize(torch.randn(classes, embedding), dim=-1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        image = self.projection(features)
        image = image.to(torch.promote_types(image.dtype, torch.float32))  # norms are inaccurate in half precision
        return self.temperature * functional.linear(functional.normalize(image, dim=-1), self.text)


def blank(
    architecture: str, kwargs: Mapping[str, Any], embedding: int, classes: int, temperature: float
) -> VisionTransformer:
    """A tower with random weights and a `ZeroShotHead`, in eval mode."""
    model = load_model(architecture, kwargs, num_classes=embedding)
    return _with_head(model, ZeroShotHead(model.num_features, embedding, classes, temperature))


def build(options: Mapping[str, Any], classes: Sequence[str]) -> tuple[VisionTransformer, dict[str, Any]]:
    """The image tower of ``options["weights"]`` with the text head that ``options["zero_shot"]`` describes.

    Args:
        options: the settings ``model``: architecture, kwargs, weights, weights_key, zero_shot.
        classes: names of the dataset's classes, in order.

    Returns:
        The model, and its record: ``embedding``, ``temperature``, ``texts`` of the first template, and
        ``tower_difference`` from open_clip's own tower (None if the sizes differ).

    Raises:
        FggError: the open_clip model is unknown or unreachable, templates or names are invalid, weights do not fit,
            or the tower's activation or embedding is not that of open_clip's.
    """
    settings = options["zero_shot"]
    texts = prompts(class_names(classes, settings["class_names"]), settings["templates"])
    clip, tokenizer = open_clip_model(settings["open_clip"])
    text = text_embeddings(clip, tokenizer, texts)
    tower = _tower(options, text.shape[1])
    _check_activation(clip, tower, options["architecture"])
    head = ZeroShotHead(tower.num_features, text.shape[1], len(text), settings["temperature"])
    with torch.no_grad():
        head.projection.weight.copy_(tower.head.weight)
        head.text.copy_(text)
    difference = tower_difference(clip, tower)
    if difference is not None and difference > SAME_TOWER:
        print(
            f"warning: the image embeddings of {options['weights']} are not those of {settings['open_clip']} (they "
            f"differ by {difference:.2g}); check that both are the same model",
            file=sys.stderr,
        )
    record = {
        "embedding": text.shape[1],
        "temperature": settings["temperature"],
        "texts": [prompt[0] for prompt in texts],
        "tower_difference": difference,
    }
    return _with_head(tower, head), record


def class_names(classes: Sequence[str], given: Sequence[str] | Mapping[str, str] | None) -> list[str]:
    """The name of each class in the texts: the first of its comma-separated synonyms.

    Args:
        classes: the dataset's names, in order.
        given: names to use instead: as many, in the same order, or a mapping from the dataset's names.

    Raises:
        FggError: names are missing, too many, or empty.
    """
    if isinstance(given, Mapping):
        lacking, unknown = [c for c in classes if c not in given], [c for c in given if c not in classes]
        if lacking or unknown:
            what = f"lacks {names(lacking)}" if lacking else f"has {names(unknown)}, which the dataset does not have"
            raise FggError(f"model.zero_shot.class_names: {what}; the classes are {names(list(classes))}")
        given = [given[c] for c in classes]
    found = list(classes if given is None else given)
    if len(found) != len(classes):
        raise FggError(f"model.zero_shot.class_names: {len(found)} names, but the dataset has {len(classes)} classes")
    short = [name.split(",")[0].strip() for name in found]
    empty = [own for own, name in zip(classes, short, strict=True) if not name]
    if empty:
        raise FggError(f"model.zero_shot.class_names: the classes {names(empty)} have no name")
    return short


def prompts(called: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The texts of each name: {name} becomes the name, and a/an the article that fits it.

    Raises:
        FggError: there is no template, or one lacks {name}.
    """
    lacking = [template for template in templates if NAME not in template]
    if lacking or not templates:
        what = f"{lacking[0]!r} lacks {NAME}" if lacking else "there are none"
        raise FggError(f"model.zero_shot.templates: {what}; write them as 'a photo of a/an {NAME}'")
    return [
        [
            template.replace(ARTICLE, "an" if name[0].lower() in VOWELS else "a").replace(NAME, name)
            for template in templates
        ]
        for name in called
    ]


def open_clip_model(name: str) -> tuple[Any, Any]:
    """An open_clip model with its weights, in eval mode, and its tokenizer.

    Args:
        name: a folder with open_clip_config.json and weights; ``hf://ORGANISATION/REPOSITORY``; or a pair
            ``ARCHITECTURE/WEIGHTS`` of open_clip's list.

    Raises:
        FggError: there is no such model, or it cannot be fetched or read.
    """
    import open_clip

    place, pretrained = _open_clip_place(name, open_clip)
    try:
        clip = open_clip.create_model(place, pretrained=pretrained, require_pretrained=True)
        return clip.eval(), open_clip.get_tokenizer(place)
    except UNREADABLE as error:
        raise FggError(
            f"model.zero_shot.open_clip: {name!r} cannot be read ({first_line(error)}); check the name and the "
            "network, or give a folder with open_clip_config.json and the weights"
        ) from None


def _open_clip_place(name: str, open_clip: Any) -> tuple[str, str | None]:
    """open_clip's name of a model, and of its weights if they are named separately."""
    import difflib

    folder = Path(name.removeprefix(LOCAL))
    if folder.is_dir():
        return f"{LOCAL}{folder}", None
    for prefix in (HUB, SHORT_HUB):
        if name.startswith(prefix):
            return HUB + name.removeprefix(prefix), None
    architecture, _, weights = name.partition("/")
    known = open_clip.list_models()
    if architecture in known:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if weights in tags:
            return architecture, weights
        raise FggError(
            f"model.zero_shot.open_clip: {name!r} names no weights of {architecture}; choose from "
            f"{', '.join(f'{architecture}/{tag}' for tag in tags) or 'other architectures'}"
        )
    near = difflib.get_close_matches(architecture, known, n=3)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise FggError(
        f"model.zero_shot.open_clip: {name!r} is not a folder, and open_clip has no model {architecture!r}{hint}; give "
        "a folder, hf://ORGANISATION/REPOSITORY, or ARCHITECTURE/WEIGHTS"
    )


@torch.no_grad()
def text_embeddings(clip: Any, tokenizer: Any, texts: Sequence[Sequence[str]]) -> Tensor:
    """Per class the mean of its texts' normalised embeddings, normalised again: float32 (K, E)."""
    flat = [text for group in texts for text in group]
    found = [
        functional.normalize(clip.encode_text(tokenizer(flat[start : start + TEXTS_PER_BATCH])).float(), dim=-1)
        for start in range(0, len(flat), TEXTS_PER_BATCH)
    ]
    grouped = torch.cat(found).unflatten(0, (len(texts), -1))
    return functional.normalize(grouped.mean(1), dim=-1)


@torch.no_grad()
def tower_difference(clip: Any, tower: VisionTransformer) -> float | None:
    """Distance of the tower's and open_clip's normalised embeddings of one random image; None if the sizes differ."""
    size = tuple(tower.patch_embed.img_size)
    theirs = clip.visual.image_size
    if size != (tuple(theirs) if isinstance(theirs, tuple | list) else (theirs, theirs)):
        return None
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    own, other = (functional.normalize(embed(image).float(), dim=-1) for embed in (tower, clip.encode_image))
    return float((own - other).norm())


def _tower(options: Mapping[str, Any], embedding: int) -> VisionTransformer:
    """The image tower with its projection as timm's head, without bias."""
    architecture, kwargs, weights = options["architecture"], options["kwargs"], options["weights"]
    if weights == "train":
        raise FggError("model.weights: 'train' does not work with zero_shot; give 'pretrained', or the path of a file")
    if weights == "pretrained":
        model = load_model(architecture, kwargs, "pretrained")
        if model.num_classes != embedding:
            raise FggError(
                f"model.zero_shot: the pretrained {architecture!r} gives embeddings of size {model.num_classes}, but "
                f"the text tower of size {embedding}; take both from one model"
            )
    else:
        model = load_model(architecture, kwargs, num_classes=embedding)
        model.head = nn.Linear(model.num_features, embedding, bias=False)
        state = read(weights, options.get("weights_key"))
        bias = state.pop("head.bias", None)
        if bias is not None and bias.any():
            raise FggError(
                f"model.zero_shot: the head of {weights} has a bias; it is not the projection of a CLIP tower"
            )
        fill(model, state, weights)
    if not isinstance(model.head, nn.Linear) or (model.head.bias is not None and model.head.bias.any()):
        raise FggError(f"model.zero_shot: the head of {architecture!r} is not the projection of a CLIP tower")
    return model.eval()


def _check_activation(clip: Any, tower: VisionTransformer, architecture: str) -> None:
    """Raise FggError if only one of the towers has QuickGELU: its weights would be used wrongly."""
    quick = [_has_quick_gelu(clip.visual), _has_quick_gelu(tower)]
    if quick[0] != quick[1]:
        wanted = "quick_gelu" if quick[0] else "gelu"
        raise FggError(
            f"model.zero_shot: the open_clip model has {wanted} in its image tower, but {architecture!r} does not; "
            f"choose another architecture, or set model.kwargs.act_layer to {wanted}"
        )


def _has_quick_gelu(tower: nn.Module) -> bool:
    return any(type(module).__name__.lower().startswith("quickgelu") for module in tower.modules())


def _with_head(model: VisionTransformer, head: ZeroShotHead) -> VisionTransformer:
    model.add_module("head", head)
    model.num_classes = len(head.text)
    return model.eval()
