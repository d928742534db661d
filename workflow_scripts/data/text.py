"""Text that is burnt into views, found by OCR: RapidOCR with the PP-OCRv6 networks inside its wheel; nothing is downloaded.

A view is read at twice its size, since a scanner's small print has capitals of 7 pixels. What a scanner itself draws over
the echoes is allowed: fewer than three letters and digits (callipers, the transducer's or the maker's mark), numerals of
the depth scale and measured lengths.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from workflow_scripts.core.figures import contact_sheet, save_picture
from workflow_scripts.core.files import write_rows
from workflow_scripts.data.pixels import Box

COLUMNS = ("view_id", "top", "left", "height", "width", "pattern", "confidence")
# Of the recognition network, 0 to 1: below it, speckle was read as characters.
CONFIDENCE = 0.5
# Share of the view's height: higher than that, speckle was read as letters, and blanking would cost the view.
HIGHEST = 1 / 3
MAGNIFICATION = 2
FEWEST_CHARACTERS = 3
# A depth or a length, with a calliper's sign or letter before it. Small print makes the unit mm look like HM or HH.
NUMERAL = re.compile(r"[A-Za-z+*x×]?\s?\d{1,3}([.,]\d{1,2})?\s?([chm]m|hh)?", re.IGNORECASE)
LISTED, SHOWN = 20, 48  # views in a message and on the sheet
LEGIBLE = 128  # pixels of a view on the sheet, at least
MARGIN = 2  # pixels around the letters, whose soft edges can be read where only their middle is blanked


class Text(NamedTuple):
    """Text in a view."""

    box: Box
    """Top, left, height, width in the view's pixels."""
    pattern: str
    """What it looks like, without saying it: A and a for letters, 0 for digits; the rest as it is."""
    confidence: float
    """Of the recognition network, `CONFIDENCE` to 1."""


def pattern(characters: str) -> str:
    """`characters` with every letter as A or a and every digit as 0, so that a list of findings names no patient."""
    return "".join(
        "0" if one.isdigit() else ("A" if one.isupper() else "a") if one.isalpha() else one
        for one in characters.strip()
    )


def allowed(characters: str) -> bool:
    """Whether a scanner writes such characters over every image: callipers, marks, depth numerals, lengths."""
    characters = characters.strip()
    return sum(map(str.isalnum, characters)) < FEWEST_CHARACTERS or bool(NUMERAL.fullmatch(characters))


@cache
def _engine(side: int) -> Any:
    """RapidOCR for views of one size."""
    import cv2
    import rapidocr

    networks = Path(rapidocr.__file__).parent / "models"
    cv2.setNumThreads(1)  # the views are read in threads already
    return rapidocr.RapidOCR(
        params={
            # Named, they are opened; otherwise they would be looked up, and fetched where their checksum is another.
            "Det.model_path": str(networks / "PP-OCRv6_det_small.onnx"),
            "Rec.model_path": str(networks / "PP-OCRv6_rec_small.onnx"),
            "Det.limit_side_len": MAGNIFICATION * side,
            "Global.use_cls": False,  # for pages scanned upside down
            "Global.text_score": CONFIDENCE,
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


class TextReader:
    """Finds text in square views of one size; threads may share a reader."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._engine = _engine(side)

    def read(self, view: np.ndarray) -> list[Text]:
        """The text in a view, uint8 (side, side), that is not `allowed`."""
        found = self._engine(np.repeat(view[..., None], 3, axis=2))
        if found.boxes is None or found.txts is None:
            return []
        return [
            Text(self._around(corners), pattern(characters), round(float(confidence), 2))
            for corners, characters, confidence in zip(found.boxes, found.txts, found.scores, strict=True)
            if not allowed(characters) and np.ptp(corners[:, 1]) <= HIGHEST * self.side
        ]

    def read_all(self, views: Iterable[np.ndarray], threads: int) -> Iterator[list[Text]]:
        """`read` for each view, in their order, in `threads` threads."""
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(self.read, views)

    def _around(self, corners: np.ndarray) -> Box:
        """The box around four corners (4, 2) of column and row, with a margin, inside the view."""
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - MARGIN, 0).tolist()
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + MARGIN, self.side).tolist()
        return top, left, bottom - top, right - left


def blanked(view: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    """A copy of the view (side, side) that is black where text was found."""
    view = view.copy()
    for top, left, height, width in (text.box for text in texts):
        view[top : top + height, left : left + width] = 0
    return view


def listing(found: Mapping[str, Sequence[Text]]) -> str:
    """Lines that name views with text and what it looks like, at most `LISTED` of them."""
    lines = [f"  {view_id}: {', '.join(text.pattern for text in texts)}" for view_id, texts in found.items()]
    more = [f"  … and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    views = "1 view holds text" if len(lines) == 1 else f"{len(lines)} views hold text"
    return "\n".join([f"{views} (A and a for letters, 0 for digits):", *lines[:LISTED], *more])


def sheet(found: Sequence[tuple[np.ndarray, Sequence[Text]]], origin: str) -> np.ndarray:
    """A contact sheet, uint8 (H, W), of views (side, side) with their text framed and filled: the figure may be shared."""
    if not found:
        empty = Image.new("L", (240, 32))
        ImageDraw.Draw(empty).text((8, 10), f"no text was found {origin}", fill=255)
        return np.asarray(empty)
    drawn = contact_sheet(np.stack([_framed(view, texts) for view, texts in found]), origin)
    times = -(-LEGIBLE // len(found[0][0]))
    return drawn.repeat(times, axis=0).repeat(times, axis=1)


def _framed(view: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    framed = view.copy()
    for top, left, height, width in (text.box for text in texts):
        inside = framed[top : top + height, left : left + width]
        inside[:] = int(inside.mean())
        inside[[0, -1]] = inside[:, [0, -1]] = 255
    return framed


def write_findings(
    found: Mapping[str, Sequence[Text]], views: np.ndarray, numbers: Sequence[int], arguments: argparse.Namespace
) -> None:
    """List the text by view id in `output_text`, and draw the first views on `output_figure`, where they are asked for.

    `numbers`: which of the `views` (N, side, side) they are.
    """
    if arguments.output_text:
        cells = [(name, *text.box, text.pattern, text.confidence) for name, texts in found.items() for text in texts]
        write_rows([dict(zip(COLUMNS, row, strict=True)) for row in cells], COLUMNS, arguments.output_text)
    if arguments.output_figure:
        shown = list(zip(numbers, found.values(), strict=True))[:SHOWN]
        save_picture(sheet([(views[row], texts) for row, texts in shown], arguments.origin), arguments.output_figure)
