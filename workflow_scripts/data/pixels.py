"""A frame, and the one definition of grey.

Colour becomes ITU-R BT.601 luma (0.299 R + 0.587 G + 0.114 B, rounded, as Pillow's mode `L`); what is fully transparent
is black, since it may hide a name, and partial transparency is ignored; palettes, YCbCr and CMYK go through RGB; values
of more than 8 stored bits keep their upper 8, values of fewer are spread over 0 to 255. 0 is black, so MONOCHROME1 and
TIFF's white-is-zero are inverted. Pixels stay as they are stored: an EXIF orientation is metadata and not applied (crop
boxes count on the stored frame).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from workflow_scripts.core.errors import UserError

# top, left, height, width in pixels
Box = tuple[int, int, int, int]

# A scanner's screenshot has about a megapixel; a file that claims to be much larger is a mistake or an attack.
LARGEST_PIXELS = 50_000_000
LONGEST_SIDE = 65_535
# Frames that are taken of one file: two minutes of a clip. All its views are in memory at once.
MOST_FRAMES = 5_000
# Tinted grey scales and JPEG stay below this difference between a pixel's channels; the colours of Doppler exceed it.
CHROMA = 64
# Which frames of a clip are taken; the config's and the manifest's way to say it.
CHOICE = re.compile(r"first|all|every [1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Frame:
    """One picture of a file, and nothing else of the file."""

    image: Image.Image
    """Mode L or RGB. Only what is cut out of it is converted to grey: a frame is larger than its views."""
    number: int | None = None
    """Position in the clip from 0; None where the file holds one frame."""
    tissue: tuple[Box, ...] = ()
    """The regions that a DICOM file marks as two-dimensional tissue images."""
    annotated: bool = False
    """Whether a DICOM file says that its pixels hold names or other text (BurnedInAnnotation)."""
    marked: Box | None = None
    """The box of what the frame's mask marks, where a mask was read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.height, self.image.width

    def grey(self, box: Box | None = None) -> np.ndarray:
        """The grey pixels of a box, or of the whole frame, uint8 (height, width)."""
        return np.array(self._part(box).convert("L"))

    def coloured_share(self, box: Box | None = None) -> float:
        """Share of the pixels whose channels differ by more than a tint, 0 to 1."""
        part = self._part(box)
        if part.mode == "L":
            return 0.0
        red, green, blue = part.split()
        highest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
        lowest = ImageChops.darker(ImageChops.darker(red, green), blue)
        counts = ImageChops.subtract(highest, lowest).histogram()
        return sum(counts[CHROMA + 1 :]) / sum(counts)

    def _part(self, box: Box | None) -> Image.Image:
        if box is None:
            return self.image
        top, left, height, width = box
        return self.image.crop((left, top, left + width, top + height))


def chosen(count: int, choice: str, image_id: str) -> range:
    """The positions of a clip of `count` frames that `choice` takes: `first`, `all`, or `every n` beginning with 0.

    Raises `UserError` where they are more than `MOST_FRAMES`.
    """
    if choice == "first":
        return range(min(count, 1))
    positions = range(0, count, 1 if choice == "all" else int(choice.removeprefix("every ")))
    if len(positions) > MOST_FRAMES:
        raise UserError(
            f"{image_id}: {len(positions):,} frames are more than the {MOST_FRAMES:,} that may be taken of a file; "
            "take every n-th (data.frames, or the manifest's column frames)"
        )
    return positions


def check_size(image_id: str, height: int, width: int) -> None:
    """Raise `UserError` where a header announces a larger frame, or a longer one, than a scanner makes."""
    if height * width > LARGEST_PIXELS:
        raise UserError(f"{image_id}: {width} x {height} pixels are more than the {LARGEST_PIXELS:,} a frame may have")
    if max(height, width) > LONGEST_SIDE:  # decoders keep more for each row than its pixels
        raise UserError(f"{image_id}: {width} x {height} pixels; a frame may have {LONGEST_SIDE:,} rows or columns")


def to_8_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers of `bits` stored bits as uint8."""
    if bits > 8:
        return (np.minimum(pixels, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
    if bits < 8:
        return (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return pixels.astype(np.uint8)
