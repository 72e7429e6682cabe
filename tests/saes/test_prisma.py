"""Prisma's checkpoints: both forms give the stored codes, and no pickle runs anything."""

import contextlib
import enum
import json
import math
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fgg.errors import FggError
from fgg.saes.build_sae import save_inference
from fgg.saes.formats.prisma import _Record, load_prisma
from fgg.saes.sae import TENSORS, load_sae

REFERENCE = Path(os.environ.get("FGG_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference"))
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "internals.npz").is_file(), reason=f"no reference vectors in {REFERENCE}; set FGG_REFERENCE"
)
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Validating sparse")
TOLERANCE = 2e-5
WIDTH, FEATURES = 6, 10
CONFIG = {
    "architecture": "standard",
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "normalize_activations": "none",
    "d_in": WIDTH,
    "hook_point_layer": 3,
    "layer_subtype": "hook_resid_post",
    "lr": 0.001,
}


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path, tensors):
    """A function: changes to the config (None drops a key) and to the tensors -> a folder in the hub's form."""

    def make(tensors=tensors, name="weights.pt", **changes):
        place = tmp_path / "sae"
        place.mkdir(exist_ok=True)
        config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        torch.save(tensors, place / name)
        return place

    return make


@pytest.fixture
def one_file(tmp_path, tensors, monkeypatch):
    """A function: config fields -> a file in the one-file form; Prisma's classes exist only while it is written."""

    def make(protocol=2, tensors=tensors, **changes):
        module = types.ModuleType("vit_prisma.sae.config")
        module.Runner = type("Runner", (), {"__module__": module.__name__})
        module.Kind = enum.Enum("Kind", {"RELU": "relu"}, module=module.__name__)
        config = module.Runner()
        vars(config).update(CONFIG | {name: module.Kind.RELU if v == "ENUM" else v for name, v in changes.items()})
        file = tmp_path / "n_images_7.pt"
        with monkeypatch.context() as patch:
            for name in ("vit_prisma", "vit_prisma.sae"):
                patch.setitem(sys.modules, name, types.ModuleType(name))
            patch.setitem(sys.modules, module.__name__, module)
            torch.save({"cfg": config, "state_dict": tensors}, file, pickle_protocol=protocol)
        return file

    return make


# The stored vectors


@needs_reference
@pytest.mark.parametrize("form", [".", "weights.pt", "n_images_1000.pt"])
@pytest.mark.parametrize("layer", [1, 2])
def test_both_forms_give_the_stored_codes(layer, form, tmp_path):
    place = REFERENCE / f"sae_layer{layer}"
    if form == "weights.pt":  # alone beside the config, under another name
        (tmp_path / "config.json").write_bytes((place / "config.json").read_bytes())
        (tmp_path / "other.pt").write_bytes((place / form).read_bytes())
        place = tmp_path
    sae = load_prisma(place / form if form.startswith("n_images") else place)
    stored = np.load(REFERENCE / "internals.npz")
    codes = sae.encode(torch.from_numpy(stored[f"resid_L{layer}"]))
    np.testing.assert_allclose(codes.detach(), stored[f"codes_L{layer}"], rtol=0, atol=TOLERANCE)
    assert sae.cfg.metadata.layer == layer
    assert sae.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post"


@needs_reference
@pytest.mark.parametrize("activation", ["relu", "topk", "tanh-relu"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_every_variant_gives_the_stored_codes_and_reconstruction(normalize, activation, folder):
    weights = np.load(REFERENCE / "sae_layer1" / "weights.npz")
    place = folder(
        {name: torch.from_numpy(weights[name]) for name in TENSORS["standard"]},
        activation_fn_str=activation,
        activation_fn_kwargs={"k": 8} if activation == "topk" else {},
        normalize_activations=normalize,
        d_in=weights["W_enc"].shape[0],
    )
    sae = load_prisma(place)
    stored = np.load(REFERENCE / "sae_variants.npz")
    codes = sae.encode(torch.from_numpy(np.load(REFERENCE / "internals.npz")["resid_L1"][0]))
    np.testing.assert_allclose(codes.detach(), stored[f"{normalize}__{activation}__codes"], rtol=0, atol=TOLERANCE)
    recon = sae.decode(codes).detach()
    np.testing.assert_allclose(recon, stored[f"{normalize}__{activation}__recon"], rtol=0, atol=TOLERANCE)


# The two forms


def test_codes_follow_the_definition(folder, tensors):
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2))
    codes = load_prisma(folder()).encode(x)
    for row in range(len(x)):
        for f in range(FEATURES):
            value = tensors["b_enc"][f].item()
            for d in range(WIDTH):
                value += (x[row, d] - tensors["b_dec"][d]).item() * tensors["W_enc"][d, f].item()
            assert codes[row, f].item() == pytest.approx(max(value, 0.0), abs=1e-5)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_one_file_form_equals_the_folder(folder, one_file, protocol):
    sae, expected = load_prisma(one_file(protocol)), load_prisma(folder())
    assert "vit_prisma" not in sys.modules
    for name, tensor in expected.state_dict().items():
        assert torch.equal(sae.state_dict()[name], tensor)
    assert sae.cfg.metadata.hook_name == expected.cfg.metadata.hook_name == "blocks.3.hook_resid_post"


def test_enums_devices_and_dtypes_may_stand_in_a_pickled_config(one_file):
    file = one_file(activation_fn_str="ENUM", device=torch.device("cpu"), dtype=torch.float32, size=torch.Size([2]))
    assert load_prisma(file).cfg.d_in == WIDTH


def test_half_precision_becomes_float32(folder, tensors):
    sae = load_prisma(folder({name: tensor.half() for name, tensor in tensors.items()}))
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}


def test_a_plain_config_inside_the_file_will_do(tmp_path, tensors):
    torch.save({"cfg": CONFIG, "state_dict": tensors}, tmp_path / "a.pt")
    assert load_prisma(tmp_path / "a.pt").cfg.d_sae == FEATURES


def test_a_folder_may_hold_the_one_file_form(one_file):
    file = one_file(hook_point_layer=9)
    assert load_prisma(file.parent).cfg.metadata.layer == 9
    (file.parent / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert load_prisma(file.parent).cfg.metadata.layer == CONFIG["hook_point_layer"]


def test_weights_beside_their_config(folder):
    """As a path with a wildcard names them in a download."""
    place = folder(name="l1-1e-05.pt", hook_point_layer=4)
    sae = load_sae(place / "*.pt")
    assert sae.cfg.metadata.layer == 4 and torch.equal(sae.W_enc, load_prisma(place).W_enc)
    (place / "config.json").unlink()
    with pytest.raises(FggError, match=r"it holds no config, and there is no config\.json beside it"):
        load_sae(place / "l1-1e-05.pt")


def test_which_weights(folder, tensors):
    place = folder(name="a.pt")
    load_prisma(place)
    torch.save(tensors, place / "b.pt")
    with pytest.raises(FggError, match=r"several \.pt files \(a\.pt, b\.pt\)"):
        load_prisma(place)
    torch.save(tensors, place / "weights.pt")
    load_prisma(place)
    for file in place.glob("*.pt"):
        file.unlink()
    with pytest.raises(FggError, match=r"no \.pt file"):
        load_prisma(place)


def normalised(x, normalize):
    """The input as the SAE sees it, and what its output is scaled and shifted by, row by row and in double."""
    if normalize == "layer_norm":
        mean = sum(x) / len(x)
        deviation = (sum((v - mean) ** 2 for v in x) / (len(x) - 1)) ** 0.5
        return [(v - mean) / (deviation + 1e-5) for v in x], deviation, mean
    if normalize == "constant_norm_rescale":
        scale = len(x) ** 0.5 / sum(v * v for v in x) ** 0.5
        return [v * scale for v in x], 1 / scale, 0.0
    return x, 1.0, 0.0


@pytest.mark.parametrize("unread", [True, False])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_gated_sae_follows_its_definition_and_is_the_same_when_saved(normalize, unread, folder, tensors, tmp_path):
    draw = torch.Generator().manual_seed(3)
    gates = {name: 0.5 * torch.randn(FEATURES, generator=draw) for name in ("b_gate", "r_mag", "b_mag")}
    gates["b_gate"] -= 0.7
    shared = {name: tensor for name, tensor in tensors.items() if unread or name != "b_enc"}
    sae = load_prisma(folder(shared | gates, architecture="gated", normalize_activations=normalize))
    rows = torch.randn(5, WIDTH, generator=draw)
    codes = sae.encode(rows).detach()
    recon = sae.decode(codes).detach()
    t = {name: tensor.double().tolist() for name, tensor in (tensors | gates).items()}
    passed = 0
    for row in range(len(rows)):
        x, scale, shift = normalised(rows[row].double().tolist(), normalize)
        expected = []
        for f in range(FEATURES):
            along = sum((x[d] - t["b_dec"][d]) * t["W_enc"][d][f] for d in range(WIDTH))
            opened = along + t["b_gate"][f] > 0
            expected.append(max(along * math.exp(t["r_mag"][f]) + t["b_mag"][f], 0.0) if opened else 0.0)
            passed += not opened and along * math.exp(t["r_mag"][f]) + t["b_mag"][f] > 0
        assert codes[row].tolist() == pytest.approx(expected, abs=1e-5)
        for d in range(WIDTH):
            value = sum(expected[f] * t["W_dec"][f][d] for f in range(FEATURES)) + t["b_dec"][d]
            assert recon[row, d].item() == pytest.approx(value * scale + shift, abs=1e-4)
    assert passed, "a gate must be closed somewhere where the magnitude is not zero"
    save_inference(sae, tmp_path / "saved")
    back = load_sae(tmp_path / "saved")
    assert (
        torch.equal(back.encode(rows), codes)
        and json.loads((tmp_path / "saved/cfg.json").read_text())["architecture"] == "gated"
    )


def test_configs_from_before_there_were_other_architectures(folder, one_file):
    sae = load_prisma(folder(architecture=None, activation_fn_kwargs=None))
    assert torch.equal(sae.W_enc, load_prisma(folder()).W_enc)


# What is not supported, and what is broken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "jumprelu"}, "architecture 'jumprelu' is not supported; fgg reads standard, gated"),
        ({"architecture": "gated", "activation_fn_str": "tanh-relu"}, "'tanh-relu' is not supported in a gated SAE"),
        ({"architecture": "gated"}, "a gated SAE holds the tensors W_enc, .*; this one lacks b_gate, r_mag, b_mag"),
        ({"activation_fn_str": "gelu"}, "activation_fn_str 'gelu' is not supported; fgg reads relu, topk, tanh-relu"),
        ({"normalize_activations": "l2"}, "normalize_activations 'l2' is not supported"),
        ({"normalize_activations": None, "d_in": None}, "the config lacks normalize_activations, d_in"),
        ({"d_in": 7}, r"d_in is 7, but W_enc is \(6, 10\)"),
        ({"d_in": "6"}, "d_in must be a whole number of at least 1, not '6'"),
        ({"hook_point_layer": [1, 2]}, "hook_point_layer must be a whole number"),
        ({"hook_point_layer": -1}, "hook_point_layer must be a whole number"),
        ({"is_transcoder": True}, "is_transcoder"),
        ({"activation_fn_kwargs": {"p": 1, "a": 2}}, "unknown keys for relu: a, p"),
        ({"activation_fn_kwargs": [1]}, "activation_fn_kwargs must be a dictionary"),
        ({"activation_fn_str": "topk"}, "topk needs a whole number k"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": True}}, "topk needs a whole number k"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 11}}, "k is 11, but the SAE has 10 features"),
    ],
)
def test_configs_that_do_not_fit(changes, message, folder):
    with pytest.raises(FggError, match=message):
        load_prisma(folder(**changes))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", '"a"', "[" * 100_000])
def test_a_damaged_config(text, folder):
    place = folder()
    (place / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FggError, match=r"config\.json"):
        load_prisma(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b_dec"), "this one lacks b_dec"),
        (lambda t: t.update(b_gate=torch.zeros(3)), "this one has unknown b_gate"),
        (
            lambda t: t.update(W_enc=torch.zeros(6, 0), W_dec=torch.zeros(0, 6), b_enc=torch.zeros(0)),
            "0 features of width 6; an SAE needs at least one",
        ),
        (lambda t: t.update(b_enc=torch.zeros(3)), r"b_enc is \(3,\), expected \(10,\)"),
        (lambda t: t.update(W_enc=torch.zeros(6)), r"W_enc is \(6,\), expected two"),
        (lambda t: t.update(b_enc=[0.0] * 10), "b_enc is not a dense tensor"),
        (lambda t: t.update(b_enc=torch.zeros(10, dtype=torch.int64)), "b_enc is not a dense tensor"),
        (lambda t: t.update(W_enc=torch.zeros(6, 10).to_sparse()), "W_enc is not a dense tensor"),
    ],
)
def test_tensors_that_do_not_fit(change, message, folder, tensors):
    change(tensors)
    with pytest.raises(FggError, match=message):
        load_prisma(folder(tensors))


@pytest.mark.parametrize("content", [[1, 2], {"cfg": 3, "state_dict": {}}, {"state_dict": {}}, {"cfg": CONFIG}])
def test_files_that_hold_something_else(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FggError, match=r"sae\.weights: .*a\.pt: "):
        load_prisma(tmp_path / "a.pt")


@pytest.mark.parametrize("form", ["folder", "one_file"])
def test_a_file_cut_or_altered_anywhere_is_reported(form, request):
    place = request.getfixturevalue(form)()
    file = place / "weights.pt" if form == "folder" else place
    whole, expected = file.read_bytes(), load_prisma(place).state_dict()
    step = max(1, len(whole) // 60)
    for at in range(0, len(whole), step):
        file.write_bytes(whole[:at])
        with pytest.raises(FggError, match=r"sae\.weights: .*(damaged|empty)"):
            load_prisma(place)
    for at in range(0, len(whole), step):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(FggError):  # a byte of padding does not matter
            same = load_prisma(place).state_dict()
            assert all(torch.equal(same[name], tensor) for name, tensor in expected.items())


def test_other_files_that_torch_reads_are_refused(tmp_path, tensors):
    file = tmp_path / "a.pt"
    torch.save({"cfg": CONFIG, "state_dict": tensors}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(FggError, match="not a file of tensors"):
        load_prisma(file)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(FggError, match="not a file of tensors"):
        load_prisma(file)


# Pickles that attack


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module, attribute, protocol=2):
    if protocol == 2:
        return f"c{module}\n{attribute}\n".encode()
    return text(module) + text(attribute) + b"\x93"


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def write(file, body, protocol=2):
    """A file as torch.save writes it, whose pickle is {"cfg": what the body leaves on the stack}."""
    torch.save({}, file)
    with zipfile.ZipFile(file) as old:
        parts = {part: old.read(part) for part in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for part, data in parts.items():
            cfg = b"\x80" + bytes([protocol]) + b"}" + text("cfg") + body + b"s."
            new.writestr(part, cfg if part.endswith("data.pkl") else data)
    return file


def python(marker):
    return f"open({str(marker)!r}, 'w').close()"


def getattr_chain(marker, protocol):
    get = name("builtins", "getattr", protocol)
    imported = call(name("builtins", "__import__", protocol), text("os"))
    return call(call(get, imported, text("system")), text(f"touch {marker}"))


def attrgetter_chain(marker, protocol):
    imported = call(name("importlib", "import_module", protocol), text("os"))
    return call(call(call(name("operator", "attrgetter", protocol), text("system")), imported), text(f"touch {marker}"))


ATTACKS = {
    "os.system": lambda m, p: call(name("os", "system", p), text(f"touch {m}")),
    "posix.system": lambda m, p: call(name("posix", "system", p), text(f"touch {m}")),
    "subprocess.getoutput": lambda m, p: call(name("subprocess", "getoutput", p), text(f"touch {m}")),
    "builtins.eval": lambda m, p: call(name("builtins", "eval", p), text(python(m))),
    "builtins.exec": lambda m, p: call(name("builtins", "exec", p), text(python(m))),
    "builtins.getattr": getattr_chain,
    "operator.attrgetter": attrgetter_chain,
    "vit_prismatic.run": lambda m, p: call(name("vit_prismatic", "run", p), text(f"touch {m}")),
    "not_vit_prisma.run": lambda m, p: call(name("not_vit_prisma", "run", p), text(f"touch {m}")),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_named_and_do_not_run(attack, protocol, tmp_path, monkeypatch):
    for module in ("vit_prismatic", "not_vit_prisma"):
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(run=os.system))
    marker = tmp_path / "marker"
    body = ATTACKS[attack](marker, protocol)
    pickle.loads(b"\x80" + bytes([protocol]) + body + b".")
    assert marker.exists(), "the attack must work where nothing stops it"
    marker.unlink()
    refused = r"builtins\.getattr" if attack == "builtins.getattr" else attack.replace(".", r"\.")
    refused = r"importlib\.import_module|operator\.attrgetter" if attack == "operator.attrgetter" else refused
    with pytest.raises(FggError, match=f"asks for ({refused}),"):
        load_prisma(write(tmp_path / "n_images_1.pt", body, protocol))
    place = tmp_path / "sae"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    with pytest.raises(FggError, match=f"asks for ({refused}),"):
        load_prisma(write(place / "weights.pt", body, protocol).parent)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("module", "attribute"), [("vit_prisma", "os.system"), ("vit_prisma.os", "system")])
def test_names_within_vit_prisma_are_records_whatever_they_name(module, attribute, protocol, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vit_prisma", types.SimpleNamespace(os=os))
    monkeypatch.setitem(sys.modules, "vit_prisma.os", os)
    marker = tmp_path / "marker"
    body = call(name(module, attribute, protocol), text(f"touch {marker}"))
    if protocol == 4 or "." not in attribute:  # protocol 2 does not follow dots
        pickle.loads(b"\x80" + bytes([protocol]) + body + b".")
        assert marker.exists(), "the attack must work where nothing stops it"
        marker.unlink()
    with pytest.raises(FggError, match="the config lacks"):
        load_prisma(write(tmp_path / "a.pt", body, protocol))
    assert not marker.exists()


@pytest.mark.parametrize(
    "refused",
    [
        "torch.hub.load",
        "torch.load",
        "torch.jit.load",
        "torch.save",
        "torch.ops.load_library",
        "torch.storage._load_from_bytes",
        "torch.storage.UntypedStorage",
        "torch.UntypedStorage",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch.FloatTensor",
        "collections.Counter",
        "copyreg._reconstructor",
        "functools.partial",
        "pathlib.PosixPath",
        "sae_lens.config.Runner",
        "collections.OrderedDict.fromkeys",
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_else_can_be_named(refused, protocol, tmp_path):
    module, attribute = refused.rsplit(".", 1)
    if refused.endswith("OrderedDict.fromkeys"):
        module, attribute = "collections", "OrderedDict.fromkeys"
    # getattr is first asked for last, so that torch's own reader gives up on what it would allow
    body = name(module, attribute, protocol) + b"0" + name("builtins", "getattr", protocol)
    with pytest.raises(FggError, match=f"asks for {refused}, which no SAE needs"):
        load_prisma(write(tmp_path / "a.pt", body, protocol))


def storage(kind, key="0", location="cpu", length=b"K\x01"):
    """A tensor's storage as a pickle names it, by torch's persistent id."""
    return b"(" + text("storage") + kind + text(key) + text(location) + length + b"tQ"


TORCH_NAMES = {
    "the kind of a storage": (storage(name("os", "system")), "asks for os.system,"),
    "a name like a storage's": (storage(name("os", "systemStorage")), "asks for os.systemStorage,"),
    "the length of a storage": (
        storage(name("torch", "FloatStorage"), length=name("builtins", "eval")),
        "builtins.eval",
    ),
    "a path out of the file": (storage(name("torch", "FloatStorage"), key="../../etc/passwd"), "not found"),
}


@pytest.mark.parametrize("attack", TORCH_NAMES)
def test_names_of_storages_do_not_run_or_reach_anything(attack, tmp_path, monkeypatch):
    body, message = TORCH_NAMES[attack]
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("ran"))
    with pytest.raises(FggError, match=message):
        load_prisma(write(tmp_path / "n_images_1.pt", body))


@pytest.mark.parametrize("place", ["field of the config", "state_dict", "deep in the config"])
def test_an_attack_inside_a_config_or_a_state_dict_does_not_run(place, one_file, tmp_path):
    """Written by pickle itself, from objects that ask for a call when they are read."""
    marker = tmp_path / "marker"

    class Danger:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    if place == "state_dict":
        file = one_file(tensors={"W_enc": Danger()})
    elif place == "field of the config":
        file = one_file(lr=Danger())
    else:
        file = one_file(extra=[{"a": (Danger(),)}])
    with pytest.raises(FggError, match=r"asks for posix\.system,"):
        load_prisma(file)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["legacy", "bare pickle"])
def test_an_attack_in_an_older_form_does_not_run(form, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "n_images_1.pt"

    class Danger:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    content = {"cfg": Danger(), "state_dict": {}}
    if form == "legacy":
        torch.save(content, file, _use_new_zipfile_serialization=False)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(FggError, match="not a file of tensors"):
        load_prisma(file)
    assert not marker.exists()


RECORD, NONE, EMPTY = name("vit_prisma.sae", "Config"), b"N", b")"
MISUSES = {
    "state of an object plants methods": (
        RECORD + EMPTY + b"\x81}(" + text("__setstate__") + RECORD + text("__class__") + RECORD + text("keys") + RECORD
        + b"ub}" + text("d_in") + b"K\x01sb"
    ),
    "slots of an object": RECORD + EMPTY + b"\x81N}" + text("args") + NONE + b"s\x86b",
    "state of the class": RECORD + b"}" + text("fields") + NONE + b"sb",
    "slots of the class": RECORD + b"N}" + text("__new__") + name("torch", "device") + b"s\x86b",
    "slots of the function": name("torch._utils", "_rebuild_tensor_v2") + b"N}" + text("__name__") + text("x") + b"s\x86b",
    "state of the function": name("torch._utils", "_rebuild_tensor_v2") + b"}" + text("planted") + NONE + b"sb",
    "slots of a table's class": name("collections", "OrderedDict") + b"N}" + text("get") + RECORD + b"s\x86b",
    "slots of a tensor's size": name("torch", "Size") + b"N}" + text("numel") + RECORD + b"s\x86b",
    "slots of a dtype": name("torch", "float32") + b"N}" + text("is_complex") + RECORD + b"s\x86b",
    "an object as a list": RECORD + EMPTY + b"\x81" + NONE + b"a",
    "an object as a table": RECORD + EMPTY + b"\x81" + text("a") + NONE + b"s",
    "a state of another kind": RECORD + EMPTY + b"\x81" + text("state") + b"b",
    "a tensor of a record": call(name("torch._utils", "_rebuild_tensor_v2"), RECORD, b"K\x00", b"(K\x02t", b"(K\x01t", NONE, NONE),
    "an instance called": call(RECORD + EMPTY + b"\x81", text("x")),
    "a class from a record": RECORD + EMPTY + b"\x81" + EMPTY + b"\x81",
    "a storage called": call(name("torch", "FloatStorage"), text("x")),
    "an extension": b"\x82\x01",
    "a persistent name": text("x") + b"Q",
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_records_and_tensors_cannot_be_misused(misuse, tmp_path):
    before = dict(vars(_Record)), dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__name__
    with pytest.raises(FggError):
        load_prisma(write(tmp_path / "a.pt", MISUSES[misuse]))
    after = dict(vars(_Record)), dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__name__
    assert before == after
    assert dict.get({}, "x") is None and torch.Size([2, 3]).numel() == 6


def test_a_record_only_keeps_what_it_is_given():
    record = _Record("a", 1, key=2)
    record.__setstate__({"__class__": str, "__setstate__": print, "keys": len})
    record.__setstate__(({"x": 1}, {"y": 2}))
    record.__setstate__(None)
    assert type(record) is _Record and record.args == ("a", 1)
    assert set(record.fields) == {"key", "__class__", "__setstate__", "keys", "x", "y"}
    assert record.__setstate__.__func__ is _Record.__setstate__
    with pytest.raises(AttributeError):
        record.planted = 1
