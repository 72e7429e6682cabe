"""Pickles and files of torch, written opcode by opcode, so that they can hold anything; and payloads."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

import numpy as np

HARM = "harm"  # the file that a payload would make in the working folder


def text(value: str) -> bytes:
    own = value.encode()
    return b"X" + struct.pack("<L", len(own)) + own


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle's call of a function, without the end."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def whole(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def saved(values: dict[str, bytes], before: bytes = b"") -> bytes:
    """The pickle of a dictionary whose values are given as opcodes."""
    return b"\x80\x02" + before + b"}" + b"".join(b"(" + text(k) + v + b"u" for k, v in values.items()) + b"."


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + whole(count) + b"tQ"


def tensor(shape: tuple[int, ...], stride: tuple[int, ...] | None = None, key: str = "0", count: int = 64) -> bytes:
    if stride is None:
        stride = tuple(int(np.prod(shape[at + 1 :])) for at in range(len(shape)))
    sizes = b"(" + b"".join(map(whole, shape)) + b"t"
    strides = b"(" + b"".join(map(whole, stride)) + b"t"
    empty = b"ccollections\nOrderedDict\n)R"
    return call("torch._utils", "_rebuild_tensor_v2", storage(key, count), whole(0), sizes, strides, b"\x89", empty)


def torch_zip(main: bytes, records: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A file like torch.save's, with any pickle in it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as parts:
        warnings.simplefilter("ignore")
        parts.writestr("archive/data.pkl", main)
        parts.writestr("archive/byteorder", b"little")
        for name, data in ({"data/0": bytes(256)} if records is None else records).items():
            parts.writestr(f"archive/{name}", data)
        parts.writestr("archive/version", b"3\n")
    return buffer.getvalue()


ATTACKS: dict[str, bytes] = {
    "os.mkdir": call("os", "mkdir", text(HARM)),
    "posix.mkdir": call("posix", "mkdir", text(HARM)),
    "eval": call("builtins", "eval", text(f"open('{HARM}', 'w')")),
    "exec of Python 2": call("__builtin__", "exec", text(f"open('{HARM}', 'w')")),
    "subprocess": call("subprocess", "check_call", b"]" + b"(" + text("touch") + text(HARM) + b"e"),
    "runpy": call("runpy", "_run_code", text(f"open('{HARM}', 'w')"), b"}"),
    "getattr": call("builtins", "getattr", b"cbuiltins\nopen\n", text("__call__")),
    "a module's attribute": call("torch", "serialization.os.mkdir", text(HARM)),
    "torch.hub": call("torch.hub", "load", text("x"), text("y")),
    "torch.load": call("torch", "load", text("x")),
    "numpy.load": call("numpy", "load", text("x")),
    "pickle.loads": call("pickle", "loads", b"C\x01."),
    "a class by INST": b"(" + text(HARM) + b"ios\nmkdir\n",
    "a class by OBJ": b"(cos\nmkdir\n" + text(HARM) + b"o",
    "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93(" + text(HARM) + b"tR",
    "BUILD of torch's function": b"ctorch._utils\n_rebuild_tensor_v2\n}(" + text("__code__") + b"Nub",
    "sae_lens": call("sae_lens", "SAE.load_from_disk", text("x")),
    "vit_prisma with code": call("vit_prisma.os", "system", text(f"touch {HARM}")),
    "an extension": b"\x82\x01",
    "a persistent id": text(HARM) + b"Q",
}
