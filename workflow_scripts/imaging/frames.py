"""Raw frames: any supported file to grey pixels, and nothing else of it.

Grey conversion, defined once: colour becomes ITU-R BT.601 luma (0.299 R + 0.587 G + 0.114 B, rounded, as Pillow's mode
`L`); an alpha channel is dropped; palettes, YCbCr and CMYK go through RGB; values of more than 8 stored bits keep their
upper 8, values of fewer are spread over 0 to 255. 0 is black, so MONOCHROME1 and TIFF's white-is-zero are inverted.
Pixels stay as they are stored: an EXIF orientation is metadata and not applied (crop boxes count on the stored frame).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from workflow_scripts.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PillowImage

# A scanner's screenshot has about a megapixel; a file that claims to be much larger is a mistake or an attack.
LARGEST_PIXELS = 50_000_000
FORMATS = ("PNG", "BMP", "JPEG", "TIFF")
# The only DICOM elements that are read besides the pixels and their palette: not one of them describes a person.
DICOM_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsStored",
    "PixelRepresentation",
]  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0


def read_frame(path: str | Path, root: str | Path, image_id: str) -> np.ndarray:
    """The frame at `path` below `root` as uint8 (height, width), decoded by content, whatever its file is called.

    Raises `UserError`, which begins with the image id and leaves out the file's name (it may be a patient's), when the
    path leaves the root (`..`, symbolic links), or the file is missing, unreadable, empty, truncated, of another
    format, without a defined grey scale, holds several frames, or more than `LARGEST_PIXELS` (known before decoding).
    """
    try:
        file = (Path(root) / str(path).replace("\\", "/")).resolve()  # manifests are also written on Windows
        inside = file.is_relative_to(Path(root).resolve())
        if inside and not file.is_file():
            raise UserError(f"{image_id}: below {root} there is no file at the path that the manifest gives")
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL character, a name that is too long
        raise UserError(f"{image_id}: its path cannot be followed ({_reason(error)})") from error
    if not inside:
        raise UserError(f"{image_id}: its path leads out of the data root {root}")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"{image_id}: the file cannot be opened ({_reason(error)})") from error
    with stream:
        head = stream.read(132)
        stream.seek(0)
        if not head:
            raise UserError(f"{image_id}: the file is empty")
        is_dicom = head[128:] == b"DICM"
        try:
            with _quiet():
                return _read_dicom(stream, image_id) if is_dicom else _read_picture(stream, image_id)
        except UserError:
            raise
        except Exception as error:
            # Decoders that are fed broken bytes raise nearly anything: TypeError, struct.error, KeyError, zlib.error …
            if is_dicom:  # pydicom's texts quote values, which in a damaged file may run into the patient's name
                raise UserError(
                    f"{image_id}: this DICOM file is damaged or truncated ({type(error).__name__})"
                ) from error
            raise UserError(f"{image_id}: the file is damaged or truncated ({_reason(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what decoders warn of: it quotes metadata, and so a patient's name, into the log."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@contextmanager
def _bounded_decoders() -> Iterator[None]:
    """With Pillow refusing pictures inside a DICOM that are larger than a frame may be, whatever its header says.

    Pillow warns above its limit and raises above twice of it, hence the half.
    """
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _reason(error: Exception) -> str:
    """One line that says what happened, without the path that an `OSError` adds."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _check_size(image_id: str, height: int, width: int) -> None:
    if height * width > LARGEST_PIXELS:
        raise UserError(f"{image_id}: {width} x {height} pixels are more than the {LARGEST_PIXELS:,} a frame may have")


def _one_frame(image_id: str, frames: int) -> None:
    if frames > 1:
        raise UserError(
            f"{image_id}: the file holds {frames} frames; clips are not supported yet, export the frame that was judged"
        )


def _to_8_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers of `bits` stored bits as uint8."""
    import numpy as np

    if bits > 8:
        return (np.minimum(pixels, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
    if bits < 8:
        return (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return pixels.astype(np.uint8)


def _read_picture(stream: BinaryIO, image_id: str) -> np.ndarray:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UserError(f"{image_id}: the content is no {known} or DICOM, or its header is damaged") from None
    except Image.DecompressionBombError:  # Pillow's own limit, which is larger
        raise UserError(f"{image_id}: more than the {LARGEST_PIXELS:,} pixels a frame may have") from None
    _check_size(image_id, image.height, image.width)
    _one_frame(image_id, getattr(image, "n_frames", 1))
    return np.ascontiguousarray(_grey(image, image_id))


def _grey(image: PillowImage, image_id: str) -> np.ndarray:
    import numpy as np

    if image.mode in ("I", "F"):  # 32-bit, signed or floating point
        raise UserError(
            f"{image_id}: signed, 32-bit and floating-point pixels have no defined grey scale; export 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(TIFF_BITS_PER_SAMPLE, (16,))[0]
        grey = _to_8_bits(np.asarray(image).astype(np.uint16), bits)
        # Pillow inverts white-is-zero up to 8 bits only.
        return 255 - grey if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO else grey
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _read_dicom(stream: BinaryIO, image_id: str) -> np.ndarray:
    import numpy as np
    import pydicom
    import pydicom.filereader
    from PIL import Image
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if pydicom.filereader.read_file_meta_info(stream.name).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # It would be inflated as a whole, without bound, before anything of it can be looked at.
        raise UserError(f"{image_id}: deflated DICOM is not read; export it uncompressed")
    stream.seek(0)
    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(DICOM_TAGS))
    missing = [tag for tag in ("Rows", "Columns", "BitsStored", "PhotometricInterpretation") if tag not in header]
    if missing:
        raise UserError(f"{image_id}: this DICOM file holds no image (no {', '.join(missing)})")
    _check_size(image_id, int(header.Rows), int(header.Columns))
    _one_frame(image_id, int(header.get("NumberOfFrames") or 1))
    photometric, bits = str(header.PhotometricInterpretation), int(header.BitsStored)
    if photometric not in GREY + COLOUR:
        known = ", ".join(GREY + COLOUR)
        raise UserError(f"{image_id}: its DICOM photometric interpretation is none of {known}")
    if header.get("PixelRepresentation"):
        raise UserError(f"{image_id}: signed DICOM pixels have no defined grey scale")
    syntax = header.file_meta.TransferSyntaxUID
    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        # A registered UID has a name of the standard; any other value is not ours to print.
        name = syntax.name if syntax.is_transfer_syntax else "an unknown transfer syntax"
        raise UserError(f"{image_id}: no decoder for DICOM compressed as {name}; export it uncompressed")
    stream.seek(0)
    image = pydicom.Dataset()
    # Reads the elements of the pixel module alone; YBR becomes RGB.
    with _bounded_decoders():
        pixels = pixel_array(stream, ds_out=image) if photometric == "PALETTE COLOR" else pixel_array(stream)
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, image)
        bits = 8 * pixels.dtype.itemsize
    pixels = _to_8_bits(pixels, bits)
    if pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels[..., :3]).convert("L"))
    return np.ascontiguousarray(255 - pixels if photometric == "MONOCHROME1" else pixels)
