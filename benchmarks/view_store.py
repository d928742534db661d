"""Frames per second and memory of the view store, against a plain Pillow loop.

The frames are phantoms on screenshots of 1024 x 768 pixels in colour, as scanners store them; every frame gives two
views of 256 x 256. The loop opens, converts, crops, resizes and saves, and checks nothing. Both read the same files,
which lie in the system's cache, and must give the same pixels. The limits are the decoder alone, one process, and the disk,
reading files that the system no longer holds.

    python -m benchmarks.view_store
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import paired, peak_memory_mib, write_result

BOXES = [[130, 185, 300, 300], [130, 485, 300, 300]]
PROFILES = {"esaote_mylab": {"kind": "boxes", "boxes": BOXES, "views": ["transverse", "sagittal"]}}
FORMATS = ("bmp", "png", "jpg")
SCREEN, SIZE = (768, 1024), 256
FILES, DISTINCT = 100, 20  # files of each format, and different frames among them


def draw(folder: Path) -> None:
    """Write `FILES` screenshots in each format; they repeat after `DISTINCT`."""
    import numpy as np
    from PIL import Image

    from workflow_scripts.data.phantom import draw_frame

    for i in range(DISTINCT):
        phantom = draw_frame(0, f"F{i}", f"P{i}", "testicle", inhomogeneous=i % 5 == 0, thyroid=False)
        screen = np.full((*SCREEN, 3), 20, np.uint8)
        screen[: phantom.shape[0], : phantom.shape[1]] = phantom[..., None]
        image = Image.fromarray(screen)
        for j in range(i, FILES, DISTINCT):
            for extension in FORMATS:
                image.save(folder / f"{j}.{extension}", quality=95)  # of the JPEG; the others know no quality


def file_names(frames: int, extension: str) -> list[str]:
    """One name per frame; beyond `FILES` they repeat."""
    return [f"{i % FILES}.{extension}" for i in range(frames)]


def view_store(folder: Path, names: list[str], threads: int) -> Path:
    """Ours: `names` may repeat a file."""
    from workflow_scripts.data.store import write_store

    rows = [
        {"image_id": f"F{i}", "path": name, "patient_id": f"P{i}", "organ": "testicle", "label": "", "side": "left",
         "device": "esaote_mylab", "frames": "first"}
        for i, name in enumerate(names)
    ]  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):  # without the progress bar
        write_store(
            rows, folder, PROFILES, SIZE, threads, folder / "ours.npy", folder / "ours.csv", skip_bad=False,
        )  # fmt: skip
    return folder / "ours.npy"


def pillow_loop(folder: Path, names: list[str]) -> Path:
    """The peer: what one would write without a library, in one process."""
    import numpy as np
    from PIL import Image

    views = []
    for name in names:
        with Image.open(folder / name) as image:
            grey = image.convert("L")
        for top, left, height, width in BOXES:
            view = grey.crop((left, top, left + width, top + height))
            views.append(np.asarray(view.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    np.save(folder / "loop.npy", np.stack(views))
    return folder / "loop.npy"


def decoder(folder: Path, names: list[str]) -> None:
    """The limit: Pillow's decoder and grey conversion alone, which both of them need, in one process."""
    from PIL import Image

    for name in names:
        with Image.open(folder / name) as image:
            image.convert("L")


def disk_rate(folder: Path, names: list[str]) -> float:
    """Frames per second that the disk gives, files read in turn after the system's cache has let go of them."""
    files = [folder / name for name in dict.fromkeys(names)]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    for file in files:
        file.read_bytes()
    return len(files) / (time.perf_counter() - start)


def fresh_process() -> ProcessPoolExecutor:
    """One process that inherits nothing."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def same_pixels(folder: Path, names: list[str]) -> bool:
    """Whether both give the same views."""
    import numpy as np

    return bool(np.array_equal(np.load(view_store(folder, names, 1)), np.load(pillow_loop(folder, names))))


def peak_of(function: Callable[..., Path], *arguments: Any) -> float:
    """Peak resident memory in MiB of a fresh process that runs `function`, or of the largest process it starts."""
    with fresh_process() as process:
        return process.submit(_peak, function, *arguments).result()


def _peak(function: Callable[..., Path], *arguments: Any) -> float:
    function(*arguments)
    return peak_memory_mib()


def speeds(folder: Path, frames: int, repeats: int) -> list[dict[str, Any]]:
    """Frames per second by format, and how many times the loop's that is."""
    rows = []
    for extension in FORMATS:
        names = file_names(frames, extension)
        # Each in a process of its own: large arrays that one has freed would spare another the system's page faults.
        with fresh_process() as loop, fresh_process() as one, fresh_process() as two, fresh_process() as limit:
            methods: dict[str, Callable[[], object]] = {
                "pillow loop": lambda: loop.submit(pillow_loop, folder, names).result(),  # noqa: B023
                "view store, 1 thread": lambda: one.submit(view_store, folder, names, 1).result(),  # noqa: B023
                "view store, 2 threads": lambda: two.submit(view_store, folder, names, 2).result(),  # noqa: B023
                "decoder alone": lambda: limit.submit(decoder, folder, names).result(),  # noqa: B023
            }
            times = paired(methods, repeats)
        same, disk = same_pixels(folder, names), disk_rate(folder, names)
        for method, seconds in times.items():
            ratio = times["pillow loop"]["seconds_median"] / seconds["seconds_median"]
            rows.append({
                "format": extension, "method": method, **seconds, "disk_frames_per_second": disk,
                "frames_per_second": frames / seconds["seconds_median"], "times_the_loop": ratio,
                "same_pixels_as_loop": same,
            })  # fmt: skip
    return rows


def memory(folder: Path, frames: int) -> list[dict[str, Any]]:
    """Peak memory of the largest process against the number of frames, BMP.

    It must come before anything large in this process: a child's peak begins with that of its parent.
    """
    rows = []
    for count in (frames // 5, frames, 5 * frames):
        names = file_names(count, "bmp")
        peaks = {
            "pillow loop": peak_of(pillow_loop, folder, names),
            "view store, 1 thread": peak_of(view_store, folder, names, 1),
            "view store, 2 threads": peak_of(view_store, folder, names, 2),
        }
        rows += [{"frames": count, "method": method, "peak_memory_mib": peak} for method, peak in peaks.items()]
    return rows


def main() -> None:
    """Draw, measure, write benchmarks/results/view_store.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500, help="(default: 500)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with fresh_process() as process:
            process.submit(draw, folder).result()
        peaks = memory(folder, arguments.frames)
        rows = speeds(folder, arguments.frames, arguments.repeats)
    for row in rows:
        speed = f"{row['frames_per_second']:8.0f} frames/s{row['times_the_loop']:7.2f} x"
        print(f"{row['format']}  {row['method']:24}{speed}")
    for row in peaks:
        print(f"{row['frames']:6} frames  {row['method']:24}{row['peak_memory_mib']:8.0f} MiB")
    print(write_result("view_store", rows, screen=list(SCREEN), view_size=SIZE, frames=arguments.frames, memory=peaks))


if __name__ == "__main__":
    main()
