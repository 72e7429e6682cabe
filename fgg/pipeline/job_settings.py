"""The settings of a job as it gets them: what it needs and no more, in one spelling. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fgg.experiments import Config


def as_json(value: Any) -> str:
    """JSON in one spelling: the order of keys and the spelling of numbers do not count as a change."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(own) for key, own in inner.items()}
        if isinstance(inner, list | tuple):
            return [plain(own) for own in inner]
        return int(inner) if isinstance(inner, float) and inner.is_integer() else inner

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def pick(config: Config, dataset: Mapping[str, Any], keys: Sequence[str]) -> Config:
    """The settings a job needs: keys of the dataset, or of the whole run; ``a.b`` is taken out as ``b``."""
    chosen = {}
    for key in keys:
        value: Any = dataset if key.split(".")[0] in dataset else config
        for part in key.split("."):
            value = value[part]
        chosen[key.rsplit(".", 1)[-1]] = value
    return chosen
