"""Decode the bytes of an image file to a PIL image of one of three modes. Does not import torch."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from fgg.errors import FggError

# The formats of the suffixes in fgg.data.sources. PIL's other decoders are not used: some start programs (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MOST_PIXELS = 2 * 89_478_485  # PIL's own limit: 700 MB of colours
ROWS = 512  # that are composited at a time


Image.init()  # PIL loads TIFF and WEBP late, and `formats` does not wait for them


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an image file fully and convert it with `standard`. ``name`` appears in error messages.

    Raises:
        FggError: the bytes are not an image, are damaged or truncated, or hold values that `standard` refuses.
    """
    try:
        return decode_unnamed(data)
    except FggError as error:
        raise FggError(f"image {name} cannot be used: {error}; fix, replace or remove it") from None


def decode_unnamed(data: bytes) -> Image.Image:
    """Like `decode`, but the error message is only the reason."""
    try:
        # What PIL warns of (odd metadata, many pixels) is either no matter here or an error below.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise FggError(
                        f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}; make it smaller"
                    )
                image.load()
                return standard(image)
    except (MemoryError, FggError):
        raise
    except Image.UnidentifiedImageError:
        reason = "not an image, or in a format that cannot be read" if data else "the file is empty"
    except Exception as error:  # noqa: BLE001 - decoders raise errors of any type for damaged bytes
        reason = f"{type(error).__name__}: {error}"
    raise FggError(reason)


def standard(image: Image.Image) -> Image.Image:
    """An upright image of mode L, RGB, or F (grey, 0 to 1, for more than 8 bits).

    EXIF rotation is applied. Transparency is composited on black. Of an animation, the current (first)
    frame is used. Integers of 16 and 32 bits are divided by 65535. A second call changes nothing.

    Raises:
        FggError: 32-bit integers outside 0…65535, or floats outside 0…1.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey_float(image)
    if image.has_transparency_data:
        return _on_black(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_black(image: Image.Image) -> Image.Image:
    """A transparent image on black, a strip at a time, so that a large one is not copied four times."""
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        part = image.crop((0, top, image.width, min(image.height, top + ROWS))).convert("RGBA")
        black = Image.new("RGBA", part.size, (0, 0, 0, 255))
        whole.paste(Image.alpha_composite(black, part).convert("RGB"), (0, top))
    return whole


def _grey_float(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        values /= 65535
    if not (values.min() >= 0 and values.max() <= 1):  # written this way, NaN fails too
        allowed = "floats from 0 to 1" if image.mode == "F" else "integers from 0 to 65535"
        raise FggError(f"its values (PIL mode {image.mode}) are out of range; allowed are {allowed}")
    return Image.fromarray(values)


def eight_bit(image: Image.Image) -> Image.Image:
    """The image as L or RGB, for display and saving."""
    image = standard(image)
    if image.mode != "F":
        return image
    return Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
