"""Read raw frames of any supported format as grey pixels; everything else in the file is left behind."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from workflow_scripts.core.errors import UserError
from workflow_scripts.data.pixels import LARGEST_PIXELS, Frame


def read_frames(path: str | Path, root: str | Path, image_id: str, choice: str = "first") -> Iterator[Frame]:
    """The frames of the file at `path` below `root`, decoded by content, whatever the file is called.

    `choice` says which frames of a clip: `first`, `all`, `every n`. Raises `UserError`, which begins with the image id
    and leaves out the file's name (it may be a patient's), when the path leaves the root (`..`, symbolic links), or the
    file is missing, unreadable, empty, truncated, of another format, without a defined grey scale, or has more than
    `LARGEST_PIXELS` (known before decoding).
    """
    with _open(path, root, image_id) as stream:
        head = stream.read(132)
        stream.seek(0)
        if not head:
            raise UserError(f"{image_id}: the file is empty")
        is_dicom = head[128:] == b"DICM"
        try:
            with _guard:
                # Decoders are imported when a file needs them: importing one takes longer than decoding a frame.
                if is_dicom:
                    from workflow_scripts.data.dicom import dicom_frames

                    yield from dicom_frames(stream, image_id, choice)
                else:
                    from workflow_scripts.data.pictures import picture_frames

                    yield from picture_frames(stream, image_id, choice)
        except UserError:
            raise
        except MemoryError as error:
            raise UserError(f"{image_id}: there is not enough memory to decode it") from error
        except Exception as error:
            # Decoders raise nearly anything on broken bytes: TypeError, struct.error, KeyError, zlib.error …
            if is_dicom:  # pydicom's texts quote values, which in a damaged file may run into the patient's name
                raise UserError(
                    f"{image_id}: this DICOM file is damaged or truncated ({type(error).__name__})"
                ) from error
            raise UserError(f"{image_id}: the file is damaged or truncated ({_reason(error)})") from error


def frames_of_row(row: Mapping[str, str], root: str | Path, kind: str, choice: str) -> Iterator[Frame]:
    """`read_frames` of a manifest row; with a crop profile of kind `masks`, each frame with the box of the row's mask.

    A mask marks a region by what is brighter than half of its brightest pixel. Raises `UserError` as `read_frames` does, and
    where the mask marks nothing or has another size than the frame.
    """
    frames = read_frames(row["path"], root, row["image_id"], choice)
    if kind != "masks":
        yield from frames
        return
    mask = next(read_frames(row["mask"], root, f"the mask of {row['image_id']}")).grey()
    rows, columns = (np.flatnonzero((mask > mask.max() / 2).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise UserError(
            f"the mask of {row['image_id']} marks nothing, it is black; draw it, or take the row out of the manifest"
        )
    box = int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    for frame in frames:
        if frame.shape != mask.shape:
            sizes = " and ".join(f"{height} x {width}" for height, width in (frame.shape, mask.shape))
            raise UserError(
                f"{row['image_id']}: frame and mask have different sizes ({sizes}); is it this frame's mask?"
            )
        yield replace(frame, marked=box)


@contextmanager
def _open(path: str | Path, root: str | Path, image_id: str) -> Iterator[BinaryIO]:
    """The file, opened for reading; only if it really lies below the root."""
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
        yield stream


class _Guard:
    """While a file is decoded: no warnings or messages of a decoder, which quote metadata and so a patient's name, and no
    picture inside a DICOM that is larger than a frame may be, whatever its header says.

    Both are settings of the process; threads that decode at the same time share one guard.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.undo = ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            self.undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for name in ("pydicom", "PIL.TiffImagePlugin"):
                logger = logging.getLogger(name)
                self.undo.callback(setattr, logger, "disabled", logger.disabled)
                logger.disabled = True
            self.undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            # Pillow warns above its limit and raises above twice of it, hence the half.
            Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS // 2

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.undo.close()


_guard = _Guard()


def _reason(error: Exception) -> str:
    """One line that says what happened, without the path that an `OSError` adds."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
