"""Find the sonograms in a scanner's screenshot (crop profile `auto`; paper, Sec. 3).

A screenshot is a static, usually black surround that holds one or more sonograms, and around them the scanner's text,
grey bar and scale marks. Three properties tell a sonogram from those. Speckle lights nearly every pixel of a wide area;
text lights few pixels of its area, and bar and marks are narrow. Two views that abut have a seam between them: grey
levels jump there along the whole depth, while speckle blurs the edges of vessels and shadows. A mark that straddles a
sonogram's edge is white beside it, where only the surround can be.

Lengths are shares of the frame or of the sonogram, so that the same rules hold for every size of screen.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from workflow_scripts.data.pixels import Box

# Grey levels above the surround that JPEG's ringing around text does not reach, and those of text itself.
ECHO = 12
WHITE = 200
# JPEG spreads the ringing of a stroke over its block of 8 x 8 pixels.
RINGING = 8
# Grey levels that the surround's noise spans within a few pixels.
STATIC = 6
# Side of the window in which most pixels must be lit, and least width of a sonogram, as shares of the shorter side.
WINDOW = 1 / 30
NARROWEST = 1 / 12
# A further sonogram has at least this share of the largest one's area.
SMALLEST = 1 / 5
# At a seam, grey levels jump by this factor more than at nine tenths of the columns around it, among which are the
# borders of JPEG's blocks; the seam of two views lies near the middle.
JUMP = 1.8
MIDDLE = (0.35, 0.65)
# An outer line whose mean level is below this share of the next ones' is ringing.
DIM = 1 / 4
# Lines that a mostly unlit line parts from the sonogram are text beside it, within this share of its side from the edge.
BESIDE = 1 / 20
# An edge is moved past marks that reach across it by at most this share of the sonogram's side.
DEEPEST_MARK = 1 / 40


def find_sonograms(frame: np.ndarray) -> list[Box]:
    """Boxes (top, left, height, width) of the sonograms on a frame, uint8 (H, W): left to right, then top to bottom.

    Empty where there is none. A box holds the whole sonogram, so that a sector's box has corners of surround. What the
    scanner writes over the echoes themselves stays, except marks that straddle an edge.
    """
    if min(frame.shape) < 8:
        return []
    lit = _lit(frame)
    tissue = _wide_areas(lit)
    regions, _ = ndimage.label(tissue)
    boxes = []
    for number, place in enumerate(ndimage.find_objects(regions), start=1):
        region = regions[place] == number
        top, left = place[0].start, place[1].start
        for first, end in _views(frame[place], region):
            part = _trimmed(frame[place][:, first:end], region[:, first:end], lit[place][:, first:end])
            if part is not None:
                boxes.append((top + part[0], left + first + part[1], part[2], part[3]))
    largest = max((height * width for _, _, height, width in boxes), default=0)
    whole = [_without_marks(frame, tissue, box) for box in boxes if box[2] * box[3] >= SMALLEST * largest]
    return sorted(whole, key=lambda box: (box[1], box[0]))


def _lit(frame: np.ndarray) -> np.ndarray:
    """Where a pixel is neither surround nor the ringing of text on it, boolean (H, W)."""
    lowest, highest = ndimage.minimum_filter(frame, 7), ndimage.maximum_filter(frame, 7)
    static = frame[highest - lowest <= STATIC]
    if static.size < frame.size / 100:
        return np.ones(frame.shape, bool)
    surround = int(np.bincount(static).argmax())
    distance = np.abs(frame.astype(np.int16) - surround)
    noise = np.abs(static.astype(np.int16) - surround)
    tolerance = max(1, 3 * int(np.median(noise[noise <= STATIC])))
    strokes = (frame >= WHITE) & (lowest <= surround + tolerance)
    beside_text = ndimage.maximum_filter(strokes, 2 * RINGING + 1)
    panels = ndimage.maximum_filter(highest == lowest, 7)
    return (distance > np.where(beside_text, ECHO, tolerance)) & ~panels


def _wide_areas(lit: np.ndarray) -> np.ndarray:
    """Where most pixels are lit, over areas too wide for text, bars and marks; shadows and cysts inside are filled."""
    shorter = min(lit.shape)
    window = 2 * round(shorter * WINDOW / 2) + 1
    # Beyond the frame counts as its last row or column, so that a sonogram may touch the frame's edge.
    dense = ndimage.uniform_filter(lit.astype(np.float32), window, mode="nearest") > 0.5
    dense = ndimage.binary_fill_holes(dense)
    width = max(3, round(shorter * NARROWEST))
    core = ndimage.minimum_filter(dense, width, mode="constant", cval=False)
    # An even window is not symmetric: its reflection is what undoes the erosion.
    return ndimage.maximum_filter(core, width, mode="constant", cval=False, origin=-1 if width % 2 == 0 else 0)


def _views(frame: np.ndarray, region: np.ndarray) -> list[tuple[int, int]]:
    """First column and end of each view of a region: two where a seam parts it near the middle, otherwise one."""
    width = frame.shape[1]
    low, high = round(width * MIDDLE[0]), round(width * MIDDLE[1])
    if high - low < 3:
        return [(0, width)]
    both = region[:, 1:] & region[:, :-1]
    step = np.abs(np.diff(frame.astype(np.int16), axis=1))
    jumps = (step * both).sum(axis=0) / np.maximum(both.sum(axis=0), 1)
    relative = jumps / (ndimage.percentile_filter(jumps, 90, 2 * round(width / 32) + 1) + 1)
    seam = low + int(relative[low:high].argmax())
    return [(0, seam + 1), (seam + 1, width)] if relative[seam] > JUMP else [(0, width)]


def _trimmed(frame: np.ndarray, region: np.ndarray, lit: np.ndarray) -> Box | None:
    """The region's box without outer rows and columns that are mostly unlit, or so dim that they are ringing."""
    spans = []
    for axis in (1, 0):
        area = np.maximum(region.sum(axis=axis), 1)
        share = (region & lit).sum(axis=axis) / area
        level = (region * frame.astype(np.float32)).sum(axis=axis) / area
        first = _first_line(share, level)
        last = _first_line(share[::-1], level[::-1])
        if first is None or last is None:
            return None
        spans.append((first, len(area) - last - first))
    (top, height), (left, width) = spans
    return top, left, height, width


def _first_line(share: np.ndarray, level: np.ndarray) -> int | None:
    """First line behind text that is mostly lit and not far dimmer than those behind it; None where there is none."""
    unlit = np.flatnonzero(share[: round(len(share) * BESIDE)] < 0.5)
    for line in range(unlit[-1] + 1 if len(unlit) else 0, len(share)):
        if share[line] >= 0.5 and level[line] >= DIM * level[line : line + 1 + RINGING].mean():
            return line
    return None


def _without_marks(frame: np.ndarray, tissue: np.ndarray, box: Box) -> Box:
    """The box, its edges moved inwards past the white marks that reach in from the surround."""
    top, left, height, width = box
    white = np.pad(frame >= WHITE, 1)[top : top + height + 2, left : left + width + 2]
    marks, _ = ndimage.label(white, np.ones((3, 3)))
    beside_surround = _edges_at_surround(tissue, box)
    sides = (height, width, height, width)
    moved = [0, 0, 0, 0]
    for rows, columns in ndimage.find_objects(marks):
        crosses = (rows.start == 0, columns.start == 0, rows.stop == height + 2, columns.stop == width + 2)
        depths = (rows.stop - 1, columns.stop - 1, height + 1 - rows.start, width + 1 - columns.start)
        passable = [
            (depths[edge], edge)
            for edge in range(4)
            if crosses[edge] and beside_surround[edge] and depths[edge] <= sides[edge] * DEEPEST_MARK
        ]
        if passable:
            depth, edge = min(passable)
            moved[edge] = max(moved[edge], depth)
    return top + moved[0], left + moved[1], height - moved[0] - moved[2], width - moved[1] - moved[3]


def _edges_at_surround(tissue: np.ndarray, box: Box) -> tuple[bool, bool, bool, bool]:
    """Whether the surround, and not another view, lies beyond the box's top, left, bottom and right edge."""
    top, left, height, width = box
    beyond = np.pad(tissue, RINGING)[top : top + height + 2 * RINGING, left : left + width + 2 * RINGING]
    across, down = beyond[:, RINGING:-RINGING], beyond[RINGING:-RINGING]
    return across[0].mean() < 0.5, down[:, 0].mean() < 0.5, across[-1].mean() < 0.5, down[:, -1].mean() < 0.5
