"""saev's checkpoints (Stevens et al. 2025): a line of JSON, then the state dict as torch.save writes it.

Versions of the header, from saev's history:

- without ``schema`` (release 0.1.0): the settings themselves, with ReLU. Codes are relu((x - b_dec) W_enc + b_enc).
- 1: the class of the settings names the activation, or the settings hold it. Two versions of saev wrote it, one that
  subtracts b_dec and one that does not; it is read as saev reads it today, without.
- 2 to 5: ``activation`` is a class with parameters; b_dec is not subtracted.

Batch-top-k uses the running threshold, as saev does outside training. Before saev stored one, schema 2 took the k largest
of each token, and schema 1 the k largest of a whole batch, which no single token has: it is refused. saev's top-k keeps
the k largest even if they are negative; here they become 0, as in sae-lens.

Release 0.1.0 trains on activations minus their mean over their mean norm, and writes its settings to ``config.json``. The
checkpoint holds neither mean nor norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.settings_files import parse_settings, read_settings
from fgg.errors import FggError
from fgg.models.checkpoint_files import SUFFIXES
from fgg.saes.formats.registry import sae_format
from fgg.saes.formats.torch_files import (
    centre,
    check_one_place,
    check_size,
    dense,
    keep_place,
    matrix,
    named,
    per_feature,
    read_torch,
    whole,
)
from fgg.saes.formats.weight_bytes import read_bytes
from fgg.saes.normalisation import CENTRED, CENTRED_BY_NORM, SCALED
from fgg.saes.sae import TENSORS, build_sae

FILE, CONFIG_FILE = "sae.pt", "config.json"
THRESHOLD = "activation.threshold"
SCHEMAS = (1, 2, 3, 4, 5)
PER_TOKEN = 2  # the schema whose batch-top-k takes the k largest of each token
MOST_HEADER = 2**20


@sae_format(name="saev checkpoint", files="sae.pt, which begins with a line of JSON", place=100)
def saev(path: Path) -> Any | None:
    """Load saev's checkpoint, a file or a folder with sae.pt.

    Raises:
        FggError: it is damaged, its schema or activation is unknown, or its codes depend on a whole batch.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix not in SUFFIXES:
        return None
    with file.open("rb") as opened:
        if opened.read(1) != b"{":
            return None
    with named(file):
        with file.open("rb") as opened:
            header = opened.readline(MOST_HEADER)
        if not header.endswith(b"\n"):
            raise FggError("it has no line of settings, or is damaged")
        rest = read_bytes(file, len(header))
        beside = file.parent / CONFIG_FILE
        return _build(_header(header), read_torch(rest), read_settings(beside) if beside.is_file() else {}, file.parent)


def _header(line: bytes) -> Mapping[str, Any]:
    try:
        header = parse_settings(line.decode(), "JSON")
    except ValueError as error:
        raise FggError(f"its first line is not valid JSON ({error})") from None
    if not isinstance(header, Mapping):
        raise FggError("its first line has no settings")
    if "schema" in header and header["schema"] not in SCHEMAS:
        known = ", ".join(map(str, SCHEMAS))
        raise FggError(f"its schema {header['schema']!r} is unknown; fgg reads {known}, and files without one")
    if "schema" in header and not isinstance(header.get("cfg"), Mapping):
        raise FggError("its first line has no settings (cfg)")
    return header


def _build(header: Mapping[str, Any], content: Any, training: Mapping[str, Any], folder: Path) -> Any:
    schema = header.get("schema")
    config = header if schema is None else header["cfg"]
    check_one_place(header, config)
    name, k = _activation(header, config, schema)
    tensors = dense(content, TENSORS["standard"], (THRESHOLD,))
    width, features = matrix(tensors, "W_enc").shape
    check_size(config, {"d_vit": width, "d_model": width, "d_sae": features})
    if "d_sae" not in config:
        check_size(config, {"exp_factor": features // width if width and features % width == 0 else -1})
    if k is not None and k > features:
        raise FggError(f"top_k is {k}, more than its {features} features")
    options: dict[str, Any] = {"subtract_b_dec": schema is None}
    if name == "BatchTopK" and THRESHOLD in tensors:
        tensors["threshold"] = per_feature(tensors, THRESHOLD, features)
        if (tensors["threshold"] <= 0).any():
            raise FggError("its batch-top-k threshold was never set in training; train it further with saev")
        options["architecture"] = "jumprelu"
    elif name == "BatchTopK" and schema != PER_TOKEN:
        raise FggError(
            f"a batch-top-k SAE of schema {schema} without a threshold has codes that depend on the whole batch; train it "
            "further with a version of saev that stores the threshold"
        )
    elif name != "Relu":
        options |= {"activation": "topk", "k": k}
    sae = build_sae(tensors, **options)
    data = next((training[key] for key in ("data", "train_data") if isinstance(training.get(key), Mapping)), None)
    _normalise(sae, schema, data, folder)
    layer = (data or {}).get("layer")
    if layer == "meanpool":
        raise FggError("it was trained on the mean over layers; give an SAE of one layer")
    if isinstance(layer, int) and not isinstance(layer, bool):
        keep_place(sae, {"layer": layer, "hook_name": f"blocks.{layer}"})
    return sae


def _activation(header: Mapping[str, Any], config: Mapping[str, Any], schema: int | None) -> tuple[str, int | None]:
    """The activation's class in saev, and its k.

    Raises:
        FggError: it is unknown, or its k is no whole number.
    """
    if schema is None:
        return "Relu", None
    stated, kind = config.get("activation"), header.get("cls")
    parameters: Any = config
    if isinstance(stated, Mapping) and "cls" in stated:
        kind, parameters = stated["cls"], stated.get("params") or {}
    elif schema != 1:
        raise FggError("its settings name no activation")
    if kind == "Relu":
        return kind, None
    if kind not in ("TopK", "BatchTopK"):
        raise FggError(f"its activation {kind!r} is not supported; fgg reads Relu, TopK, BatchTopK")
    return kind, whole(parameters.get("top_k") if isinstance(parameters, Mapping) else None, "top_k")


def _normalise(sae: Any, schema: int | None, data: Mapping[str, Any] | None, folder: Path) -> None:
    """Note how the activations were normalised: as ``config.json`` says, else as saev did at the time."""
    once = schema in (None, 1)
    flags = data if data is not None else dict.fromkeys(("scale_mean", "scale_norm"), once)
    mean, norm = bool(flags.get("scale_mean", once)), bool(flags.get("scale_norm", once))
    if norm and not mean and "scale_mean" not in flags:
        raise FggError(
            f"{CONFIG_FILE} says scale_norm without scale_mean, which fgg does not know of this version of saev; train "
            "without it"
        )
    if norm and not mean:
        sae.cfg.normalize_activations = SCALED  # sqrt(D) over the mean norm, as in sae-lens
    else:
        centre(sae, (CENTRED_BY_NORM if norm else CENTRED) if mean else None, folder)
