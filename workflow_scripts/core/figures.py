"""What every figure shares: colours, panels, contact sheets, the PHANTOM stamp, and one way to save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_scripts.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, RED, GREY = "#1c2430", "#3b6fb6", "#c8452f", "#9aa5b1"
DPI = 130
CORNER = 0.25  # inches below a figure for its origin
BAND = 12  # pixels above the sheet for the stamp


def contact_sheet(images: np.ndarray, origin: str) -> np.ndarray:
    """uint8 (H, W) of images (N, S, S), in lines of about sqrt(N); `origin` (PHANTOM) is printed above them."""
    from PIL import Image, ImageDraw

    columns = int(np.ceil(np.sqrt(len(images))))
    lines = -(-len(images) // columns)
    padded = np.zeros((lines * columns, *images.shape[1:]), dtype=np.uint8)
    padded[: len(images)] = images
    side = images.shape[1]
    sheet = padded.reshape(lines, columns, side, side).swapaxes(1, 2).reshape(lines * side, columns * side)
    if not origin:
        return sheet
    band = Image.new("L", (sheet.shape[1], BAND))
    ImageDraw.Draw(band).text((2, 0), origin, fill=255)
    return np.concatenate([np.asarray(band), sheet])


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write uint8 (H, W) as PNG."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure and its flat list of axes, without ticks; sizes in inches per panel."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def evenly(total: int, count: int) -> list[int]:
    """At most `count` different positions, spread evenly over range(total)."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def stamp(figure: Figure, origin: str) -> None:
    """Print the origin across a figure whose data are no patients, and once more in its lower left corner.

    With constrained layout that corner lies below everything else.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if origin:
        if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
            margin = CORNER / figure.get_figheight()
            engine.set(rect=(0, margin, 1, 1 - margin))
        across: dict[str, Any] = {"fontsize": 64, "alpha": 0.13, "rotation": 28, "ha": "center", "va": "center"}
        corner: dict[str, Any] = {"fontsize": 11, "ha": "left", "va": "bottom"}
        for x, y, style in ((0.5, 0.5, across), (0.005, 0.005, corner)):
            figure.text(x, y, origin, color=RED, weight="bold", zorder=10, **style)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def as_pixels(figure: Figure) -> np.ndarray:
    """The figure as `save` would write it, RGB, uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
