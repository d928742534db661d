"""DICOM files, with pydicom: the pixels, and no element that describes a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pydicom
import pydicom.filereader
from PIL import Image
from pydicom.pixels import apply_color_lut, get_decoder, iter_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian

from workflow_scripts.core.errors import UserError
from workflow_scripts.data.pixels import Box, Frame, check_size, chosen, to_8_bits

# The only elements that are read besides the pixels and their palette.
TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsStored",
    "PixelRepresentation", "SequenceOfUltrasoundRegions", "BurnedInAnnotation",
]  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
# DICOM PS3.3, C.8.5.5.1.1 and C.8.5.5.1.2
SPATIAL_2D, DATA_TISSUE = 1, 1


def dicom_frames(stream: BinaryIO, image_id: str, choice: str) -> Iterator[Frame]:
    """The chosen frames of a DICOM file, decoded one by one."""
    if pydicom.filereader.read_file_meta_info(stream.name).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # It would be inflated as a whole, without bound, before anything of it can be looked at.
        raise UserError(f"{image_id}: deflated DICOM is not read; export it uncompressed")
    stream.seek(0)
    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
    _check(header, image_id)
    photometric, bits = str(header.PhotometricInterpretation), int(header.BitsStored)
    count = int(header.get("NumberOfFrames") or 1)
    tissue = _tissue_regions(header)
    positions = chosen(count, choice, image_id)
    annotated = header.get("BurnedInAnnotation") == "YES"
    module = pydicom.Dataset() if photometric == "PALETTE COLOR" else None
    stream.seek(0)
    for position, pixels in zip(positions, iter_pixels(stream, ds_out=module, indices=positions), strict=True):
        number = position if count > 1 else None
        if module is not None:
            pixels = apply_color_lut(pixels, module)
            bits = 8 * pixels.dtype.itemsize
        pixels = to_8_bits(pixels, bits)[..., :3] if pixels.ndim == 3 else to_8_bits(pixels, bits)
        image = Image.fromarray(np.ascontiguousarray(255 - pixels if photometric == "MONOCHROME1" else pixels))
        yield Frame(image, number, tissue, annotated)


def _check(header: pydicom.Dataset, image_id: str) -> None:
    """Raise `UserError` where the header says that the pixels cannot, or must not, be decoded."""
    missing = [tag for tag in ("Rows", "Columns", "BitsStored", "PhotometricInterpretation") if tag not in header]
    if missing:
        raise UserError(f"{image_id}: this DICOM file holds no image (no {', '.join(missing)})")
    check_size(image_id, int(header.Rows), int(header.Columns))
    if str(header.PhotometricInterpretation) not in GREY + COLOUR:
        known = ", ".join(GREY + COLOUR)
        raise UserError(f"{image_id}: its DICOM photometric interpretation is none of {known}")
    if header.get("PixelRepresentation"):
        raise UserError(f"{image_id}: signed DICOM pixels have no defined grey scale")
    syntax: Any = header.file_meta.TransferSyntaxUID
    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        # A registered UID has a name of the standard; any other value is not ours to print.
        name = syntax.name if syntax.is_transfer_syntax else "an unknown transfer syntax"
        raise UserError(f"{image_id}: no decoder for DICOM compressed as {name}; export it uncompressed")


def _tissue_regions(header: pydicom.Dataset) -> tuple[Box, ...]:
    """The regions of two-dimensional tissue, in the order of the file; their last row and column belong to them."""
    boxes = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("RegionSpatialFormat") != SPATIAL_2D or region.get("RegionDataType") != DATA_TISSUE:
            continue
        left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
        right, bottom = int(region.RegionLocationMaxX1), int(region.RegionLocationMaxY1)
        # Some scanners give the first row and column after the region: at the frame's edge that is one too far.
        right, bottom = right - (right == header.Columns), bottom - (bottom == header.Rows)
        boxes.append((top, left, bottom - top + 1, right - left + 1))
    return tuple(boxes)
