"""Decoding: every format to the same defined grey, every bad file one clear message, nothing read but pixels."""

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageFile, TiffImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundImageStorage,
)

from workflow_scripts.core.errors import UserError
from workflow_scripts.data import dicom, frames, pixels
from workflow_scripts.data.frames import read_frames

NAME = "Mustermann"
ROWS, COLUMNS = 24, 40


@pytest.fixture
def grey() -> np.ndarray:
    """A smooth uint8 (24, 40) frame that JPEG keeps within a few grey levels, all rows and columns different."""
    return np.add.outer(np.arange(ROWS) * 4, np.arange(COLUMNS) * 4).astype(np.uint8)


@pytest.fixture
def colour(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, 255 - grey, np.full_like(grey, 30)], -1)


def read_frame(path: str, root: Path, image_id: str) -> np.ndarray:
    (frame,) = read_frames(path, root, image_id)
    return frame.grey()


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601, by its definition."""
    return np.round(rgb[..., :3].astype(float) @ [0.299, 0.587, 0.114])


def write_dicom(
    path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 8, **more: object
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName, dataset.PatientID, dataset.StationName = f"{NAME}^Erika", NAME, NAME
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = photometric
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for key, value in more.items():
        setattr(dataset, key, value)
    dataset.save_as(path)
    return dataset


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_lossless_formats_keep_every_grey_value(tmp_path: Path, grey: np.ndarray, extension: str):
    Image.fromarray(grey).save(tmp_path / f"a.{extension}")
    frame = read_frame(f"a.{extension}", tmp_path, "P1")
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, grey)


def test_jpeg_stays_close(tmp_path: Path, grey: np.ndarray):
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_frame("a.jpg", tmp_path, "P1").astype(int) - grey).max() <= 3


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_colour_becomes_luma(tmp_path: Path, colour: np.ndarray, extension: str):
    Image.fromarray(colour).save(tmp_path / f"a.{extension}")
    assert np.abs(read_frame(f"a.{extension}", tmp_path, "P1") - luma(colour)).max() <= 0.5 + 1e-2


def test_alpha_is_dropped_not_blended(tmp_path: Path, grey: np.ndarray, colour: np.ndarray):
    alpha = np.full_like(grey, 7)
    Image.fromarray(np.stack([grey, alpha], -1)).save(tmp_path / "la.png")
    Image.fromarray(np.concatenate([colour, alpha[..., None]], -1)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_frame("la.png", tmp_path, "P1"), grey)
    assert np.abs(read_frame("rgba.png", tmp_path, "P1") - luma(colour)).max() <= 0.51


def test_what_is_transparent_stays_hidden(tmp_path: Path, grey: np.ndarray, colour: np.ndarray):
    """A name under alpha 0 is not shown again, in any way that a picture has to say transparent."""
    alpha = np.full_like(grey, 255)
    alpha[:4] = 0
    for image, name in ((np.stack([grey, alpha], -1), "la"), (np.concatenate([colour, alpha[..., None]], -1), "rgba")):
        for extension in ("png", "tif"):
            Image.fromarray(image).save(tmp_path / f"{name}.{extension}")
            frame = read_frame(f"{name}.{extension}", tmp_path, "P1")
            assert not frame[:4].any()
            expected = luma(image[..., :3]) if image.shape[-1] == 4 else grey
            assert np.abs(frame[4:] - expected[4:].astype(float)).max() <= 0.51
    marked = np.where(alpha == 0, 77, np.where(grey == 77, 78, grey)).astype(np.uint8)
    Image.fromarray(marked).save(tmp_path / "key.png", transparency=77)
    np.testing.assert_array_equal(read_frame("key.png", tmp_path, "P1"), np.where(alpha == 0, 0, marked))
    Image.fromarray(marked.astype(np.uint16) * 256).save(tmp_path / "key16.png", transparency=77 * 256)
    assert Image.open(tmp_path / "key16.png").mode == "I;16"
    np.testing.assert_array_equal(read_frame("key16.png", tmp_path, "P1"), np.where(alpha == 0, 0, marked))


def test_palette_goes_through_its_colours(tmp_path: Path):
    indices = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS) % 3
    palette = np.array([[200, 10, 90], [0, 0, 0], [255, 255, 255]], np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "p.png", transparency=1)
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.abs(read_frame("p.png", tmp_path, "P1") - luma(palette[indices])).max() <= 0.51


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_goes_through_rgb(tmp_path: Path, extension: str):
    # No black ink: RGB is the complement of CMY.
    ink = np.zeros((ROWS, COLUMNS, 4), np.uint8)
    ink[..., :3] = [200, 50, 120]
    Image.fromarray(ink, "CMYK").save(tmp_path / f"c.{extension}")
    assert Image.open(tmp_path / f"c.{extension}").mode == "CMYK"
    expected = luma(255 - ink[..., :3])
    assert np.abs(read_frame(f"c.{extension}", tmp_path, "P1") - expected).max() <= 2


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bits_keep_their_upper_8(tmp_path: Path, grey: np.ndarray, extension: str):
    Image.fromarray(grey.astype(np.uint16) * 256 + 255).save(tmp_path / f"a.{extension}")
    np.testing.assert_array_equal(read_frame(f"a.{extension}", tmp_path, "P1"), grey)


def test_one_bit_spans_black_to_white(tmp_path: Path, grey: np.ndarray):
    Image.fromarray(grey > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_frame("a.png", tmp_path, "P1"), 255 * (grey > 100))


def tiff(pixels: bytes, bits: int, photometric: int) -> bytes:
    """A minimal little-endian grey TIFF of one strip, as Pillow cannot write these."""
    fields = [
        (256, 4, COLUMNS), (257, 4, ROWS), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 4, ROWS), (279, 4, len(pixels)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + b"\0\0\0\0" + pixels


def test_tiff_with_12_bits_and_white_is_zero(tmp_path: Path, grey: np.ndarray):
    wide = grey.astype(np.uint16) * 16 + 15
    pairs = wide.reshape(-1, 2)  # two pixels in three bytes, most significant bits first
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    (tmp_path / "12.tif").write_bytes(tiff(packed.astype(np.uint8).tobytes(), 12, 1))
    (tmp_path / "white8.tif").write_bytes(tiff((255 - grey).tobytes(), 8, 0))
    (tmp_path / "white16.tif").write_bytes(tiff((65535 - grey.astype(np.uint16) * 256).tobytes(), 16, 0))
    for name in ("12.tif", "white8.tif", "white16.tif"):
        np.testing.assert_array_equal(read_frame(name, tmp_path, "P1"), grey, err_msg=name)


def test_content_decides_not_the_extension(tmp_path: Path, grey: np.ndarray):
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "really_a_png.dcm")
    write_dicom(tmp_path / "really_dicom.jpg", grey)
    for name in ("really_a_png.dcm", "really_dicom.jpg"):
        np.testing.assert_array_equal(read_frame(name, tmp_path, "P1"), grey)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_dicom_scales_by_its_stored_bits_and_inverts_monochrome1(tmp_path: Path, grey: np.ndarray, bits: int):
    if bits == 4:
        stored, expected = grey // 16, (grey // 16) * 17
    elif bits == 8:
        stored, expected = grey, grey
    else:
        stored, expected = grey.astype(np.uint16) << (bits - 8), grey
    write_dicom(tmp_path / "two.dcm", stored, bits=bits)
    write_dicom(tmp_path / "one.dcm", stored, "MONOCHROME1", bits=bits)
    np.testing.assert_array_equal(read_frame("two.dcm", tmp_path, "P1"), expected)
    np.testing.assert_array_equal(read_frame("one.dcm", tmp_path, "P1"), 255 - expected)


def test_dicom_colour_rgb_ybr_and_palette(tmp_path: Path, grey: np.ndarray, colour: np.ndarray):
    write_dicom(tmp_path / "rgb.dcm", colour, "RGB")
    ybr = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    write_dicom(tmp_path / "ybr.dcm", ybr, "YBR_FULL")
    tables = {
        name: (np.arange(256)[::step] * 257).astype(np.uint16)
        for name, step in [("Red", 1), ("Green", -1), ("Blue", 1)]
    }
    luts = {f"{name}PaletteColorLookupTableData": table.tobytes() for name, table in tables.items()}
    described = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in tables}
    write_dicom(tmp_path / "palette.dcm", grey, "PALETTE COLOR", **luts, **described)
    through_palette = np.stack([grey, 255 - grey, grey], -1)
    assert np.abs(read_frame("rgb.dcm", tmp_path, "P1") - luma(colour)).max() <= 0.51
    assert np.abs(read_frame("ybr.dcm", tmp_path, "P1") - luma(colour)).max() <= 2
    assert np.abs(read_frame("palette.dcm", tmp_path, "P1") - luma(through_palette)).max() <= 0.51


def test_dicom_compressed(tmp_path: Path, grey: np.ndarray):
    smooth = np.stack([grey, grey, np.full_like(grey, 90)], -1)
    dataset = write_dicom(tmp_path / "jpeg.dcm", smooth, "YBR_FULL_422")
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=95, subsampling="4:2:2")
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "jpeg.dcm")
    assert np.abs(read_frame("jpeg.dcm", tmp_path, "P1") - luma(smooth)).max() <= 6
    dataset = write_dicom(tmp_path / "rle.dcm", grey)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_frame("rle.dcm", tmp_path, "P1"), grey)


def test_no_dicom_element_about_a_person_is_read(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    write_dicom(tmp_path / "a.dcm", grey)
    seen: list[pydicom.Dataset] = []
    whole = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: seen.append(whole(*a, **k)) or seen[-1])
    read_frame("a.dcm", tmp_path, "P1")
    assert seen
    assert all(NAME not in str(dataset) for dataset in seen)
    assert NAME in str(whole(tmp_path / "a.dcm"))


def noise_file(folder: Path, extension: str) -> bytes:
    """Bytes of an incompressible 64 x 64 colour picture, so that a cut or a flip hits pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f"noise.{extension}")
    return (folder / f"noise.{extension}").read_bytes()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "jpg", "dcm"])
def test_a_truncated_file_is_refused(tmp_path: Path, grey: np.ndarray, extension: str, share: float):
    if extension == "dcm":
        write_dicom(tmp_path / "noise.dcm", grey)
        data = (tmp_path / "noise.dcm").read_bytes()
        share = max(share, 0.2)  # below that no DICOM preamble is left
    else:
        data = noise_file(tmp_path, extension)
    (tmp_path / f"{NAME}.{extension}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError) as caught:
        read_frame(f"{NAME}.{extension}", tmp_path, "P1")
    text = str(caught.value)
    assert text.startswith("P1: ")
    assert "\n" not in text
    assert NAME not in text


def test_truncated_pictures_are_not_patched_up():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "jpg", "dcm"])
def test_damaged_bytes_give_a_frame_or_a_message_and_nothing_else(tmp_path: Path, grey: np.ndarray, extension: str):
    if extension == "dcm":
        write_dicom(tmp_path / "noise.dcm", grey)
        data = (tmp_path / "noise.dcm").read_bytes()
    else:
        data = noise_file(tmp_path, extension)
    draws = np.random.default_rng(1)
    messages = []
    for _ in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = 132 if extension == "dcm" else 0
        where = draws.integers(start, min(len(data), start + 300), 4)
        damaged[where] = draws.integers(0, 256, 4)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        try:
            frame = read_frame("damaged", tmp_path, "P1")
            assert frame.dtype == np.uint8
            assert frame.ndim == 2
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert all(text.startswith("P1: ") for text in messages)


def test_a_tiff_whose_header_breaks_pillow_is_a_message(tmp_path: Path, grey: np.ndarray):
    data = bytearray(tiff(grey.tobytes(), 8, 1))
    data[118:122] = struct.pack("<I", len(data))  # a second directory, which is empty: Pillow raises a TypeError
    data += bytes(6)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(UserError, match=r"^P1: the file is damaged or truncated \("):
        read_frame("a.tif", tmp_path, "P1")


def test_pillow_says_nothing_of_a_damaged_tiff(tmp_path: Path, grey: np.ndarray, caplog: pytest.LogCaptureFixture):
    one, many = (struct.pack("<HHII", 277, 3, 1, samples) for samples in (1, 60_000))
    data = tiff(grey.tobytes(), 8, 1)
    assert one in data
    (tmp_path / "a.tif").write_bytes(data.replace(one, many))
    with pytest.raises(UserError, match="^P1: "):
        read_frame("a.tif", tmp_path, "P1")
    assert not caplog.records


def test_no_message_or_warning_quotes_a_damaged_dicom_file(
    tmp_path: Path, grey: np.ndarray, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
):
    """Each length field made longer in turn, so that an element before the name swallows it."""
    write_dicom(tmp_path / "a.dcm", grey)
    data = (tmp_path / "a.dcm").read_bytes()
    end = data.index(NAME.encode()) + 200
    messages = []
    for position in range(132, min(end, len(data))):
        for value in (0, 90, 200):
            (tmp_path / "a.dcm").write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                read_frame("a.dcm", tmp_path, "P1")
            except UserError as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert all(text.startswith("P1: ") and "Muster" not in text for text in messages)
    assert not recwarn.list
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:Invalid value for VR IS")
def test_an_exception_that_quotes_a_value_stays_out_of_the_message(tmp_path: Path, grey: np.ndarray):
    write_dicom(tmp_path / "a.dcm", grey, NumberOfFrames="1234567890")
    data = (tmp_path / "a.dcm").read_bytes()
    assert data.count(b"1234567890") == 1
    assert len(NAME) == 10
    (tmp_path / "a.dcm").write_bytes(data.replace(b"1234567890", NAME.encode()))
    with pytest.raises(ValueError, match=NAME):
        int(pydicom.dcmread(tmp_path / "a.dcm").NumberOfFrames)
    with pytest.raises(UserError, match=r"^P1: this DICOM file is damaged or truncated \(ValueError\)$"):
        read_frame("a.dcm", tmp_path, "P1")


def test_a_compression_without_decoder_is_named(tmp_path: Path, grey: np.ndarray):
    dataset = write_dicom(tmp_path / "a.dcm", grey)
    dataset.PixelData = encapsulate([grey.tobytes()])
    dataset["PixelData"].is_undefined_length = True
    for uid, name in [(MPEG2MPML, "MPEG2 Main Profile"), (UID("1.2.3.4.5"), "an unknown transfer syntax")]:
        dataset.file_meta.TransferSyntaxUID = uid
        dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
        with pytest.raises(UserError, match=rf"^P1: no decoder for DICOM compressed as {name}"):
            read_frame("a.dcm", tmp_path, "P1")


def test_empty_text_and_foreign_formats(tmp_path: Path, grey: np.ndarray):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("a,b\n1,2\n" * 100)
    Image.fromarray(grey).save(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"^P1: the file is empty$"):
        read_frame("empty.png", tmp_path, "P1")
    for name in ("text.png", "a.gif"):
        with pytest.raises(UserError, match=r"^P1: the content is not PNG, BMP, JPEG, TIFF or DICOM"):
            read_frame(name, tmp_path, "P1")


def test_pixels_without_a_grey_scale_are_refused(tmp_path: Path, grey: np.ndarray):
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(UserError, match=r"^P1: .*no defined grey scale"):
            read_frame(name, tmp_path, "P1")
    write_dicom(tmp_path / "signed.dcm", grey, PixelRepresentation=1)
    with pytest.raises(UserError, match=r"^P1: signed"):
        read_frame("signed.dcm", tmp_path, "P1")
    write_dicom(tmp_path / "hsv.dcm", np.stack([grey] * 3, -1), "HSV")
    with pytest.raises(UserError, match=r"^P1: its DICOM photometric interpretation is none of MONO"):
        read_frame("hsv.dcm", tmp_path, "P1")


def test_a_dicom_file_without_an_image(tmp_path: Path, grey: np.ndarray):
    dataset = write_dicom(tmp_path / "a.dcm", grey)
    del dataset.Rows, dataset.Columns, dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(UserError, match=r"^P1: this DICOM file holds no image"):
        read_frame("a.dcm", tmp_path, "P1")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.dcm", "rle.dcm"])
def test_the_frames_of_a_clip(tmp_path: Path, grey: np.ndarray, name: str):
    shades = [grey // divisor for divisor in (1, 2, 3, 4, 5)]
    pages = [Image.fromarray(shade) for shade in shades]
    if name.endswith("dcm"):
        dataset = write_dicom(tmp_path / name, grey, NumberOfFrames=5, PixelData=np.stack(shades).tobytes())
        if name == "rle.dcm":
            dataset.compress(RLELossless)
            dataset.save_as(tmp_path / name)
    else:
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    for choice, positions in [("first", [0]), ("all", [0, 1, 2, 3, 4]), ("every 2", [0, 2, 4]), ("every 9", [0])]:
        read = list(read_frames(name, tmp_path, "P1", choice))
        assert [frame.number for frame in read] == positions
        for frame in read:
            np.testing.assert_array_equal(frame.grey(), shades[frame.number])


def test_a_single_frame_has_no_number(tmp_path: Path, grey: np.ndarray):
    Image.fromarray(grey).save(tmp_path / "a.png")
    write_dicom(tmp_path / "a.dcm", grey, NumberOfFrames=1)
    for name in ("a.png", "a.dcm"):
        for choice in ("first", "all", "every 3"):
            assert [frame.number for frame in read_frames(name, tmp_path, "P1", choice)] == [None]


def test_too_many_frames_of_one_file_are_refused(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    pages = [Image.fromarray(grey)] * 5
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setattr("workflow_scripts.data.pixels.MOST_FRAMES", 4)
    with pytest.raises(UserError, match=r"^P1: 5 frames are more than the 4 .*; take every n-th"):
        next(read_frames("a.tif", tmp_path, "P1", "all"))
    assert len(list(read_frames("a.tif", tmp_path, "P1", "every 2"))) == 3


def test_a_dicom_file_says_whether_text_is_burnt_in(tmp_path: Path, grey: np.ndarray):
    for answer in ("YES", "NO"):
        write_dicom(tmp_path / "a.dcm", grey, BurnedInAnnotation=answer)
        assert next(read_frames("a.dcm", tmp_path, "P1")).annotated == (answer == "YES")
    write_dicom(tmp_path / "a.dcm", grey)
    assert not next(read_frames("a.dcm", tmp_path, "P1")).annotated


def test_a_clip_that_ends_early_is_damaged(tmp_path: Path, grey: np.ndarray):
    write_dicom(tmp_path / "a.dcm", grey, NumberOfFrames=5, PixelData=np.stack([grey] * 3).tobytes())
    with pytest.raises(UserError, match=r"^P1: this DICOM file is damaged or truncated"):
        list(read_frames("a.dcm", tmp_path, "P1", "all"))


def test_a_page_may_not_be_larger_than_a_frame(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    small, large = Image.fromarray(grey), Image.fromarray(np.zeros((100, 100), np.uint8))
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large])
    monkeypatch.setattr(pixels, "LARGEST_PIXELS", ROWS * COLUMNS)
    read = read_frames("a.tif", tmp_path, "P1", "all")
    assert next(read).shape == (ROWS, COLUMNS)
    with pytest.raises(UserError, match=r"^P1: 100 x 100 pixels are more"):
        next(read)


@pytest.mark.parametrize("file", ["examples_ybr_color.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm"])
def test_real_scanners_files(file: str):
    """Ultrasound files that ship with pydicom: a multi-frame clip in YBR, palette colours, RGB."""
    path = Path(pydicom.data.get_testdata_file(file, download=False) or "")
    header = pydicom.dcmread(path, stop_before_pixels=True)
    read = list(read_frames(path.name, path.parent, "P1", "every 10"))
    assert len(read) == len(range(0, int(header.get("NumberOfFrames") or 1), 10))
    expected = luma(pydicom.pixels.pixel_array(path, index=0)) if "palette" not in file else None
    for frame in read:
        assert frame.shape == (header.Rows, header.Columns)
        assert frame.grey().std() > 10
        assert frame.image.mode == "RGB"
    if expected is not None:
        assert np.abs(read[0].grey() - expected).max() <= 0.51


def region(spatial: int, data: int, *corners: int) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType = spatial, data
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners
    return item


def test_the_tissue_regions_of_a_dicom_file(tmp_path: Path, grey: np.ndarray):
    regions = [
        region(1, 1, 5, 2, 14, 21),
        region(1, 2, 5, 2, 14, 21),  # colour flow
        region(3, 3, 0, 0, 9, 9),  # a spectrum
        region(1, 1, 20, 0, COLUMNS, ROWS),  # the first column and row after it
    ]
    write_dicom(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)
    (frame,) = read_frames("a.dcm", tmp_path, "P1")
    assert frame.tissue == ((2, 5, 20, 10), (0, 20, ROWS, COLUMNS - 20))
    write_dicom(tmp_path / "b.dcm", grey)
    (frame,) = read_frames("b.dcm", tmp_path, "P1")
    assert frame.tissue == ()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (12_000, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_before_decoding(
    tmp_path: Path, width: int, height: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    (tmp_path / "bomb.png").write_bytes(png_claiming(width, height))
    write_dicom(tmp_path / "bomb.dcm", np.zeros((2, 2), np.uint8), Rows=height, Columns=width)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(dicom, "iter_pixels", lambda *_, **__: pytest.fail("decoded"))
    for name in ("bomb.png", "bomb.dcm"):
        with pytest.raises(UserError, match=r"^P1: .*50,000,000"):
            read_frame(name, tmp_path, "P1")
    assert not recwarn.list


@pytest.mark.parametrize(("width", "height"), [(1, 65_536), (65_536, 1), (1, 50_000_000)])
def test_a_frame_is_no_longer_than_a_scanners(tmp_path: Path, width: int, height: int):
    (tmp_path / "a.png").write_bytes(png_claiming(width, height))
    with pytest.raises(UserError, match=rf"^P1: {width} x {height} pixels; a frame may have 65,535 rows or columns"):
        read_frame("a.png", tmp_path, "P1")


def test_the_limit_itself_is_allowed(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pixels, "LARGEST_PIXELS", ROWS * COLUMNS)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read_frame("a.png", tmp_path, "P1").shape == (ROWS, COLUMNS)


def test_paths_stay_below_the_root(tmp_path: Path, grey: np.ndarray):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "secret.png")
    Image.fromarray(grey).save(root / "fine.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    (root / "inner.png").symlink_to("fine.png")
    for path in (
        "../secret.png",
        "sub/../../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "folder/secret.png",
    ):
        with pytest.raises(UserError, match=r"^P1: its path leads out of the data root"):
            read_frame(path, root, "P1")
    for path in ("fine.png", "sub/../fine.png", "inner.png"):
        np.testing.assert_array_equal(read_frame(path, root, "P1"), grey)


def test_paths_that_cannot_be_followed(tmp_path: Path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for path in ("absent.png", "folder.png", "loop.png", "a\0b.png", "x" * 5000):
        with pytest.raises(UserError, match=r"^P1: "):
            read_frame(path, tmp_path, "P1")


def test_stored_orientation_is_kept(tmp_path: Path, grey: np.ndarray):
    exif = Image.Exif()
    exif[TiffImagePlugin.IMAGEDESCRIPTION] = NAME
    exif[274] = 6
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_frame("a.png", tmp_path, "P1"), grey)


def test_a_deflated_dicom_is_refused_before_it_is_inflated(tmp_path: Path):
    dataset = write_dicom(tmp_path / "a.dcm", np.zeros((20, 30), np.uint8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=r"P1: deflated DICOM is not read"):
        read_frame("a.dcm", tmp_path, "P1")


def test_a_picture_inside_a_dicom_may_not_be_larger_than_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "LARGEST_PIXELS", 1000)
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(jpeg, "JPEG")
    dataset = write_dicom(tmp_path / "a.dcm", np.zeros((20, 30), np.uint8))
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size) or load(image))
    with pytest.raises(UserError, match="P1"):
        read_frame("a.dcm", tmp_path, "P1")
    assert decoded == []


def test_backslashes_of_windows_manifests_are_followed(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "sub" / "a.png")
    assert read_frame("sub\\a.png", tmp_path, "P1").shape == (4, 5)


def test_threads_that_decode_share_one_guard_and_leave_no_trace(tmp_path: Path, grey: np.ndarray):
    """Warnings stay off while anybody decodes, and the process is afterwards as it was."""
    pages = [Image.fromarray(grey // divisor) for divisor in (1, 2, 3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    before = warnings.filters[:], Image.MAX_IMAGE_PIXELS, logging.getLogger("pydicom").disabled
    first, second = (read_frames("a.tif", tmp_path, "P1", "all") for _ in range(2))
    next(first)
    next(second)
    first.close()
    assert Image.MAX_IMAGE_PIXELS == pixels.LARGEST_PIXELS // 2
    assert warnings.filters[0][0] == "ignore"
    assert len(list(second)) == 2
    assert (warnings.filters[:], Image.MAX_IMAGE_PIXELS, logging.getLogger("pydicom").disabled) == before
