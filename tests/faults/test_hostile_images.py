"""Image files that are made to do harm: each is an image, or unreadable for one stated reason, with bounded memory."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hostile import at_most
from PIL import Image

from fgg.data.images import decode_unnamed
from fgg.data.masks import decode_mask
from fgg.errors import FggError

SIDE = 30_000  # the claimed side of a bomb; 900 million pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(side: int = 16) -> Image.Image:
    return Image.fromarray(np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int = 2, rows: bytes = b"", before: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_chunks(*chunks: bytes) -> bytes:
    """A good picture with chunks after its head."""
    data = encoded(picture(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def resized(kind: str) -> bytes:
    """A small picture whose head claims another size."""
    data = bytearray(encoded(picture(), kind))
    if kind == "GIF":
        struct.pack_into("<2H", data, 6, 60_000, 60_000)
    elif kind == "BMP":
        struct.pack_into("<2l", data, 18, SIDE, SIDE)
    elif kind == "JPEG":
        struct.pack_into(">2H", data, data.index(b"\xff\xc0") + 5, 60_000, 60_000)
    elif kind == "TIFF":
        for tag in (256, 257):
            place = data.index(struct.pack("<HHL", tag, 4, 1))
            struct.pack_into("<L", data, place + 8, SIDE)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<L", 10) + bytes(4)
    body += struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    inner = encoded(picture(), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<L", 4 + len(body + inner)) + b"WEBP" + body + inner


def huge_count(tag: int) -> bytes:
    """A TIFF with an entry that claims four billion values."""
    data = bytearray(encoded(picture(), "TIFF"))
    place = struct.unpack_from("<L", data, 4)[0]
    struct.pack_into("<HHLL", data, place + 2, tag, 4, 2**32 - 1, 8)
    return bytes(data)


def tiff_in_a_circle() -> bytes:
    """A TIFF whose next directory is its first."""
    data = bytearray(encoded(picture(), "TIFF"))
    first = struct.unpack_from("<L", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<L", data, first + 2 + 12 * count, first)
    return bytes(data)


def frames(kind: str, count: int = 300) -> bytes:
    images = [Image.new("RGB", (16, 16), (i % 256, i // 256, 0)) for i in range(count)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **({"loop": 0} if kind == "GIF" else {}))


def exif(size: int) -> bytes:
    data = encoded(picture(), "JPEG")
    block = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + struct.pack(">HHHLL", 1, 0x010E, 2, size, 26) + bytes(4)
    blocks = b"".join(b"\xff\xe1" + struct.pack(">H", 65535) + block.ljust(65533, b"x") for _ in range(40))
    return data[:2] + blocks + data[2:]


ICC = zlib.compress(bytes(2**28))
TEXT = zlib.compress(bytes(2**28))

# name -> the file, and what is said of it ("" for a picture of 16 x 16 pixels), and the megabytes that it may take
CASES: dict[str, tuple[Callable[[], bytes], str, float]] = {
    "PNG claims 900 million pixels": (lambda: png(SIDE, SIDE), "pixels", 16),
    "PNG holds 196 million pixels": (lambda: png(14_000, 14_000, 0, bytes(14_001 * 14_000)), "pixels", 16),
    "PNG claims 2^31 columns": (lambda: png(2**31 - 1, 1), "pixels|size|large|Overflow", 16),
    "PNG claims no columns": (lambda: png(0, 5), ".", 16),
    **{
        f"{kind} claims too many pixels": (lambda kind=kind: resized(kind), "pixels|truncated", 16)
        for kind in ("GIF", "BMP", "JPEG", "TIFF")
    },
    "WEBP claims 16383 x 16383": (lambda: webp(16_383, 16_383), ".", 16),
    "BMP claims a negative height": (
        lambda: (data := bytearray(resized("BMP"))) and bytes(data[:22] + struct.pack("<l", -(2**31)) + data[26:]),
        "pixels|.",
        16,
    ),
    "GIF of 300 frames": (lambda: frames("GIF"), "frame", 16),
    "APNG of 300 frames": (lambda: frames("PNG"), "frame", 16),
    "WEBP of 300 frames": (lambda: frames("WEBP"), "frame", 16),
    "TIFF of 300 frames": (lambda: frames("TIFF"), "frame", 16),
    "GIF without an end": (lambda: encoded(picture(), "GIF")[:-1] + b"!\xfe\xff" + b"x" * 2**22, "frame", 16),
    "PNG with 256 MB of packed text": (lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + TEXT)), "frame|text|large", 80),
    "PNG with 100 packed texts": (
        lambda: with_chunks(*[chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(2**20 - 9))) for i in range(100)]),
        "frame|text|large|memory",
        120,
    ),
    "PNG with 256 MB of packed iTXt": (
        lambda: with_chunks(chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT)),
        "frame|text|large",
        80,
    ),
    "PNG with a profile of 256 MB": (lambda: with_chunks(chunk(b"iCCP", b"a\0\0" + ICC)), "frame|profile|large", 80),
    "PNG with a claimed chunk of 2 GB": (
        lambda: encoded(picture(), "PNG")[:33] + struct.pack(">L", 2**31 - 1) + b"zTXt" + b"x" * 100,
        ".",
        16,
    ),
    "JPEG with EXIF of 2 MB": (lambda: exif(2**31), "frame|EXIF|.", 16),
    "JPEG with a damaged EXIF": (
        lambda: encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "frame",
        16,
    ),
    "TIFF with four billion values": (lambda: huge_count(270), ".", 64),
    "TIFF with four billion strips": (lambda: huge_count(273), ".", 64),
    "TIFF in a circle": (tiff_in_a_circle, "frame", 16),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not an image", 16),
    "SVG with a DTD bomb": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa">]><svg>&a;</svg>',
        "not an image",
        16,
    ),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "not an image", 16),
    "PDF": (lambda: encoded(picture(), "PDF"), "not an image", 16),
    "a program": (lambda: b"\x7fELF" + bytes(100), "not an image", 16),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.", "not an image", 16),
    "GIF that is a script too": (lambda: b"GIF89a=1;alert(1)//", ".", 16),
    "PNG with an archive behind it": (lambda: encoded(picture(), "PNG") + b"PK\x05\x06" + bytes(18), "frame", 16),
    "JPEG with a page behind it": (lambda: encoded(picture(), "JPEG") + b"<script>alert(1)</script>", "frame", 16),
    "cut in its head": (lambda: encoded(picture(), "PNG")[:20], ".", 16),
    "cut in its pixels": (lambda: encoded(picture(200), "PNG")[:-400], ".", 16),
}


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", CASES)
def test_images(kind):
    make, says, megabytes = CASES[kind]
    data = make()
    reason = None
    with at_most(megabytes):
        try:
            image = decode_unnamed(data)
        except FggError as error:
            reason = str(error)
    if reason is None:
        assert "frame" in says or says == ".", "it was read"
        assert image.size == (16, 16)
    else:
        assert says != "frame", reason
        assert any(word in reason for word in says.split("|")) or "." in says, reason
        assert "\n" not in reason and len(reason) < 300


@pytest.mark.parametrize("make", [lambda: png(SIDE, SIDE), lambda: png(5_000, 5_000, 0, bytes(5_001 * 5_000))])
def test_masks_that_are_bombs(make):
    data = make()
    with at_most(160):
        try:
            assert decode_mask(data).size == (5_000, 5_000)
        except FggError as error:
            assert "pixels" in str(error)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_the_largest_image_is_read_in_bounded_memory(mode):
    """Three copies of its pixels and the file, whatever its mode; without a warning."""
    side = 5_000
    data = encoded(Image.new(mode, (side, side)), "TIFF", compression="tiff_lzw" if mode != "I;16" else None)
    with at_most(3.5 * 4 * side**2 / 2**20 + len(data) / 2**20):
        assert decode_unnamed(data).size == (side, side)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind", ["JPEG with EXIF of 2 MB", "JPEG with a damaged EXIF", "TIFF with four billion values"]
)
def test_no_warning_is_printed_beside_the_message(kind):
    with contextlib.suppress(FggError):
        decode_unnamed(CASES[kind][0]())
    assert decode_unnamed(png(9_500, 9_500, 0, bytes(9_501 * 9_500))).size == (9_500, 9_500)
