"""The settings of a job: only what it needs, in a canonical form. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fgg.experiments import Config


def as_json(value: Any) -> str:
    """Canonical JSON, in which the order of keys and the notation of numbers make no difference."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(own) for key, own in inner.items()}
        if isinstance(inner, list | tuple):
            return [plain(own) for own in inner]
        return int(inner) if isinstance(inner, float) and inner.is_integer() else inner

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def pick(config: Config, dataset: Mapping[str, Any], keys: Sequence[str]) -> Config:
    """The settings that a job needs, from the dataset or from the whole run; ``a.b`` becomes ``b``."""
    chosen = {}
    for key in keys:
        value: Any = dataset if key.split(".")[0] in dataset else config
        for part in key.split("."):
            value = value[part]
        chosen[key.rsplit(".", 1)[-1]] = value
    return chosen
