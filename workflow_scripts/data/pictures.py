"""PNG, BMP, JPEG and TIFF files, with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from workflow_scripts.core.errors import UserError
from workflow_scripts.data import pixels
from workflow_scripts.data.pixels import Frame, check_size, chosen, to_8_bits

FORMATS = ("PNG", "BMP", "JPEG", "TIFF")
TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0


def picture_frames(stream: BinaryIO, image_id: str, choice: str) -> Iterator[Frame]:
    """The chosen frames of a picture file; TIFF pages and animated PNGs count as clips."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UserError(f"{image_id}: the content is not {known} or DICOM, or its header is damaged") from None
    except Image.DecompressionBombError:  # Pillow's own limit, which is larger
        raise UserError(f"{image_id}: more than the {pixels.LARGEST_PIXELS:,} pixels a frame may have") from None
    check_size(image_id, image.height, image.width)
    count = getattr(image, "n_frames", 1)
    for position in chosen(count, choice, image_id):
        image.seek(position)
        check_size(image_id, image.height, image.width)  # the pages of a TIFF differ
        yield _frame(image, image_id, position if count > 1 else None)


def _frame(image: Image.Image, image_id: str, number: int | None) -> Frame:
    if image.mode in ("I", "F"):  # 32-bit, signed or floating point
        raise UserError(
            f"{image_id}: signed, 32-bit and floating-point pixels have no defined grey scale; export 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(TIFF_BITS_PER_SAMPLE, (16,))[0]
        stored = np.asarray(image).astype(np.uint16)
        grey = to_8_bits(stored, bits)
        grey[stored == image.info.get("transparency")] = 0  # the value that a PNG may declare transparent
        # Pillow inverts white-is-zero up to 8 bits only.
        white_is_zero = tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO
        return Frame(Image.fromarray(255 - grey if white_is_zero else grey), number)
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        shown = Image.new("RGB", image.size)
        shown.paste(opaque.convert("RGB"), mask=opaque.getchannel("A").point([0] + [255] * 255))
        return Frame(shown, number)
    if image.mode not in ("L", "RGB"):
        return Frame(image.convert("RGB"), number)
    image.load()
    # Going on to the next frame of a clip changes the image in place.
    return Frame(image if number is None else image.copy(), number)
