"""Give the weights of a Vision Transformer timm's names, whatever names and prefixes they have.

Four layouts are known: timm's, open_clip's image tower, torchvision's, and that of Hugging Face's transformers. A layout
is recognised by the name of its patch embedding. What stands before that name is the prefix of all weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fgg.errors import FggError, names
from fgg.models.hugging_face_names import FAMILIES, from_hugging_face
from fgg.models.layout_names import CLIP_NAMES, CLIP_SHAPES, OTHER_NAMES, TORCHVISION_NAMES

# Parts of names that wrap a module and do not belong to it: torch.compile, FSDP, activation checkpointing, DeepSpeed.
WRAPPING = frozenset(
    ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module")
)
# Name prefix of a model that was wrapped for several GPUs, or averaged.
PARALLEL = "module."
# Name prefixes of tensors that only pretraining uses.
LEFT_OVER = ("decoder_", "mask_token")
# Words that mark averaged weights, in keys and prefixes.
AVERAGED = re.compile(r"(^|[._])(ema|avg|averaged?|swa|shadow|polyak)(?=$|[._])")
ADAPTER = re.compile(r"(^|[._])(lora_\w+|base_layer|loha_\w+|lokr_\w+|hada_\w+|ia3_l|adapter)(?=$|\.)")
# A layout's patch embedding, and what must stand beside it.
LAYOUTS = {
    "timm": ("patch_embed.proj.weight", ""),
    "open_clip": ("class_embedding", "conv1.weight"),
    "torchvision": ("conv_proj.weight", "class_token"),
    "hugging_face": ("embeddings.patch_embeddings.projection.weight", ""),
}
TRUNK, TRUNK_HEAD = "visual.trunk.", "visual.head.proj."
# Names of a linear layer that can only be the classifier; numbers are places in an nn.Sequential.
HEAD = re.compile(
    r"(?:lin_head|fc|classifier|classification_head|cls_head|linear_head|linear|heads?|heads?\.head|head\.fc)(?:\.\d+)?"
)
HEAD_PARTS = re.compile(rf"({HEAD.pattern})\.(weight|bias)")


@dataclass(frozen=True)
class Named:
    """Weights with timm's names, and how they came by them.

    Attributes:
        state: the state dict.
        family: the model type of Hugging Face's names, such as ``vit``; empty for other layouts.
        notes: what was stripped, left out or chosen, for the log.
    """

    state: dict[str, Tensor]
    family: str
    notes: list[str]


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the names that timm gives a VisionTransformer; see `named`."""
    return named(state).state


def named(state: Mapping[str, Tensor], key: str | None = None) -> Named:
    """The weights of the one Vision Transformer in a state dict, with timm's names.

    The one prefix that its weights share is dropped, and what lies outside it is left out. A layer that can only be the
    classifier becomes ``head``; a ``lin_head`` also replaces a head from pretraining. Tensors that only pretraining uses
    are left out.

    Args:
        key: the prefix of the weights to take if there are several; None takes those that are not averaged.

    Raises:
        FggError: adapters that are not merged, several models or heads and no way to choose, or no such prefix.
    """
    if key is not None:  # the names lose these parts, too
        parallel = all(name.startswith(PARALLEL) for name in state)
        key = _without_wrapping(key.removeprefix(PARALLEL) if parallel else key)
    state = _unwrapped(state)
    if adapters := [name for name in state if ADAPTER.search(name)]:
        raise FggError(
            f"holds adapters that are not merged into the weights ({names(adapters)}); merge them first, with peft by "
            "model.merge_and_unload(), and save the state dict of the result"
        )
    notes: list[str] = []
    layout, prefix = _place(state, key, notes)
    if not layout:
        return Named(_without_left_over(_with_head(state, notes), notes), "", notes)
    root, family = prefix, ""
    if layout == "hugging_face":
        family = prefix.rstrip(".").rsplit(".", 1)[-1]
        family = family if family in FAMILIES else ""
        root = prefix.removesuffix(f"{family}.") if family else prefix
    elif layout == "timm" and prefix.endswith(TRUNK):
        return Named(_trunk(state, prefix), "", notes)
    own = {name.removeprefix(root): tensor for name, tensor in state.items() if name.startswith(root)}
    others = {name: tensor for name, tensor in state.items() if not name.startswith(root)}
    if root and not root.endswith("visual."):
        notes.append(f"dropped the prefix {root!r}")
    if layout == "open_clip":
        return Named(_renamed(own, CLIP_NAMES, CLIP_SHAPES), "", notes)
    if layout == "torchvision":
        own = _renamed(own, TORCHVISION_NAMES)
    elif layout == "hugging_face":
        own = from_hugging_face(own, f"{family}." if family else "", notes)
    own = _with_head(_renamed(own, OTHER_NAMES), notes)
    others = _outer_head(own, others, root, notes)
    if others:
        notes.append(f"left out what lies outside the model: {names(list(others))}")
        if any(name.rpartition(".")[2] in ("mean", "std") for name in others):
            notes.append(
                "what was left out may standardise the images; if so, set preprocess.mean and std to its values"
            )
    return Named(_without_left_over(own, notes), family, notes)


def pick(found: Iterable[str], key: str | None, notes: list[str], where: str) -> str:
    """One of several dotted names of weights: the one that ``key`` names, or the only one that is not averaged.

    Raises:
        FggError: the key names none of them or several, or there is no key and no way to choose.
    """
    known = list(found)
    shown = names([f"{name or '(no prefix)'}" for name in known])
    if key is not None:
        ways = (
            [name for name in known if name == key],
            [name for name in known if name.startswith(f"{key}.")],
            [name for name in known if name.endswith(f".{key}")],
            [name for name in known if f".{key}." in name],
        )
        matches = next((way for way in ways if way), [])
        if len(matches) != 1:
            what = f"fits several {where}" if matches else f"names no {where}"
            raise FggError(f"has weights under {shown}, but model.weights_key {key!r} {what}; give one of these")
        notes.append(f"took the weights under {matches[0]!r}, as model.weights_key says; there are: {shown}")
        return matches[0]
    plain = [name for name in known if not AVERAGED.search(name)]
    chosen = plain or known
    if len(chosen) != 1:
        raise FggError(f"holds the weights of several models, under {shown}; choose one with model.weights_key")
    if len(known) > 1:
        rest = names([name for name in known if name != chosen[0]])
        notes.append(
            f"took the weights under {chosen[0] or '(no prefix)'!r}, not the averaged ones; for those, set "
            f"model.weights_key to {rest}"
        )
    elif AVERAGED.search(chosen[0]):
        notes.append(f"took the averaged weights under {chosen[0]!r}, the only ones")
    return chosen[0]


def _without_wrapping(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPING)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without parts of names that only wrap modules, and without the prefix of models on several GPUs."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = _without_wrapping(name)
        if short in found:
            raise FggError(f"holds {short} twice, with and without a wrapper; save the state dict of the model alone")
        found[short] = tensor
    while found and all(name.startswith(PARALLEL) for name in found):
        found = {name.removeprefix(PARALLEL): tensor for name, tensor in found.items()}
    return found


def _place(state: Mapping[str, Tensor], key: str | None, notes: list[str]) -> tuple[str, str]:
    """Layout and prefix of the model that is read; empty if none is recognised."""
    found: dict[str, str] = {}
    for layout, (anchor, beside) in LAYOUTS.items():
        for name in state:
            if name == anchor or name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                if not beside or prefix + beside in state:
                    found[prefix] = layout
    if not found:
        if key is not None:
            raise FggError(f"has no weights of a Vision Transformer under model.weights_key {key!r}")
        return "", ""
    if key is None and len(found) == 1:
        prefix = next(iter(found))
        return found[prefix], prefix
    prefix = pick([prefix.rstrip(".") for prefix in found], key, notes, "prefix of its weights")
    prefix = prefix and f"{prefix}."
    return found[prefix], prefix


def _renamed(
    state: Mapping[str, Tensor], patterns: Iterable[tuple[str, str]], shapes: Mapping = {}
) -> dict[str, Tensor]:
    """The state dict with names replaced by the first pattern that fits; other names stay."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = next((re.sub(old, new, name) for old, new in patterns if re.fullmatch(old, name)), name)
        if new in found:
            raise FggError(f"holds {new} under two names; save the state dict of the model alone")
        found[new] = shapes.get(new, lambda same: same)(tensor)
    return found


def _trunk(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Timm's own tower inside an open_clip model."""
    head = prefix.removesuffix(TRUNK) + TRUNK_HEAD
    tower = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return tower | {
        f"head.{name.removeprefix(head)}": tensor for name, tensor in state.items() if name.startswith(head)
    }


def _with_head(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """With the name ``head`` for the layer that can only be the classifier."""
    state = dict(state)
    if "lin_head.weight" in state:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    if "head.weight" in state:
        return state
    bases = _heads(state)
    if len(bases) != 1:
        return state
    if bases[0] != "lin_head":
        notes.append(f"read {bases[0]} as the head")
    return {
        f"head.{name.removeprefix(bases[0] + '.')}" if name.startswith(f"{bases[0]}.") else name: tensor
        for name, tensor in state.items()
    }


def _heads(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that can be the classifier: those with a matrix and nothing but a bias beside it."""
    parts = {name: match for name in state if (match := HEAD_PARTS.fullmatch(name))}
    found = {match[1] for match in parts.values()}
    return [base for base in sorted(found) if f"{base}.weight" in state and state[f"{base}.weight"].ndim == 2]


def _outer_head(own: dict[str, Tensor], others: dict[str, Tensor], root: str, notes: list[str]) -> dict[str, Tensor]:
    """Move the classifier that stands beside a backbone into its weights; returns what is left outside.

    Raises:
        FggError: both the model and its surroundings have a head that fits.
    """
    width = own["patch_embed.proj.weight"].shape[0]
    around = root.rstrip(".").rsplit(".", 1)[0] + "." if "." in root.rstrip(".") else ""
    beside = {name.removeprefix(around): tensor for name, tensor in others.items() if name.startswith(around)}
    bases = [base for base in _heads(beside) if beside[f"{base}.weight"].shape[1] == width]
    if not bases or (len(bases) > 1 and "head.weight" in own):
        return others
    if "head.weight" in own:
        raise FggError(
            f"holds two heads, {root}head and {around}{bases[0]}; save the state dict of the model that is explained alone"
        )
    if len(bases) > 1:
        raise FggError(f"holds several layers that can be the head, {names(bases)}; save the right one as head")
    notes.append(f"read {around}{bases[0]} as the head")
    for part in ("weight", "bias"):
        if (name := f"{bases[0]}.{part}") in beside:
            own[f"head.{part}"] = beside[name]
            others = {other: tensor for other, tensor in others.items() if other != around + name}
    return others


def _without_left_over(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    gone = [name for name in state if name.startswith(LEFT_OVER)]
    if gone:
        notes.append(f"left out what only pretraining uses: {names(gone)}")
    return {name: tensor for name, tensor in state.items() if name not in gone}
