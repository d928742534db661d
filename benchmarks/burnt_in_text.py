"""How much burnt-in text the crop and the OCR of the views remove, with an answer key, as MIDI-B measures de-identification.

Names, dates of birth and ids are planted one by one where the key knows them: 1 500 in views of DDTI (cut by `auto`) and
BUS-BRA (whole images), 500 on the surround of DDTI's screenshots. Readable means: capitals of 7 to 18 pixels in a view of
256, and letters at least 60 grey levels brighter than the mean of what is behind them. Correct is, with
`data.on_text: blank`: no pixel of a planted string is left, and a view without text is unchanged. Which of the views held
text from the start (BUS-BRA: side, quadrant and some ages) was read by eye: `tests/fixtures/burnt_in_text.csv`.

    python -m benchmarks.burnt_in_text --ddti DDTI_FOLDER --busbra BUSBRA_IMAGES
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measure import write_on_page, write_result

if TYPE_CHECKING:
    import numpy as np

    from workflow_scripts.data.text import Text, TextReader

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "burnt_in_text.csv"
PAGE = Path(__file__).parents[1] / "docs" / "data.md"
SIDE = 256
VIEWS, IN_VIEWS, ON_SURROUND = 500, 1500, 500  # views of each set, and strings
HEIGHTS = (7, 18)  # capitals, in pixels
CONTRAST = 60
STUDY_VIEWS, CORES = 25_790, 8
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif")
CAPITAL = 0.729  # of DejaVu: height of a capital as a share of the size
SURNAMES = (
    "SMITH",
    "GARCIA",
    "MUELLER",
    "ROSSI",
    "KOWALSKI",
    "NGUYEN",
    "SILVA",
    "ANDERSSON",
    "DUBOIS",
    "PETROV",
    "HAAS",
)
NAMES = ("Anna", "John", "Maria", "Luca", "Piotr", "Linh", "Joao", "Erik", "Claire", "Ivan", "Eva")


class Planted(NamedTuple):
    """A picture with a string in it."""

    source: str
    pixels: np.ndarray
    ink: np.ndarray
    """bool, where the string covers more than half of the picture's grey."""
    height: int
    """Of its capitals, in pixels."""


def string(draws: random.Random) -> str:
    """A name, a date of birth or an id, or two of them."""
    surname, name = draws.choice(SURNAMES), draws.choice(NAMES)
    day, month, year = draws.randint(1, 28), draws.randint(1, 12), draws.randint(1930, 2015)
    return draws.choice((
        surname,
        f"{surname}, {name}",
        f"{name} {surname.title()}",
        f"{day:02}.{month:02}.{year}",
        f"{year}-{month:02}-{day:02}",
        f"{month:02}/{day:02}/{year % 100:02}",
        f"DOB {day:02}.{month:02}.{year}",
        f"ID {draws.randint(0, 999_999):06}",
        str(draws.randint(10**6, 10**8)),
        f"P{draws.randint(100, 9999):05}",
        f"{surname} {draws.randint(10_000, 99_999)}",
    ))  # fmt: skip


def plant(source: str, pixels: np.ndarray, taken: Sequence[Sequence[int]], draws: random.Random) -> Planted:
    """A readable string at a random place of the picture (H, W) that touches none of the boxes `taken`."""
    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    faces = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    while True:
        text, capital = string(draws), draws.randint(*HEIGHTS)
        font = ImageFont.truetype(str(faces / f"{draws.choice(FACES)}.ttf"), round(capital / CAPITAL))
        left, top, right, bottom = map(round, font.getbbox(text))
        height, width = bottom - top, right - left
        if height + 8 >= pixels.shape[0] or width + 8 >= pixels.shape[1]:
            continue
        row, column = draws.randint(4, pixels.shape[0] - height - 4), draws.randint(4, pixels.shape[1] - width - 4)
        if any(
            row - 4 < one[0] + one[2] and one[0] < row + height + 4
            and column - 4 < one[1] + one[3] and one[1] < column + width + 4
            for one in taken
        ):  # fmt: skip
            continue
        grey = draws.choice((170, 200, 230, 255, 255))
        if grey - pixels[row : row + height, column : column + width].mean() < CONTRAST:
            continue
        mask = Image.new("L", pixels.shape[::-1])
        ImageDraw.Draw(mask).text((column - left, row - top), text, fill=255, font=font)
        share = np.asarray(mask) / 255
        drawn = np.round((1 - share) * pixels + share * grey).astype(np.uint8)
        return Planted(source, drawn, share > 0.5, capital)


def clean_views(ddti: Path, busbra: Path) -> dict[str, np.ndarray]:
    """Views (256, 256) by id, `VIEWS` of each set, evenly drawn."""
    from workflow_scripts.core.figures import evenly
    from workflow_scripts.data.sonogram import find_sonograms

    views = []
    for path in sorted(ddti.glob("*.jpg")):
        frame = _grey(path)
        for number, box in enumerate(find_sonograms(frame)):
            views.append((f"ddti_{path.stem}#{number}", _cut(frame, box)))
    files = sorted(busbra.glob("*.png"))
    chosen = [views[i] for i in evenly(len(views), VIEWS)]
    for path in (files[i] for i in evenly(len(files), VIEWS)):
        frame = _grey(path)
        chosen.append((path.stem, _cut(frame, (0, 0, *frame.shape))))
    return dict(chosen)


def read_clean(views: Mapping[str, np.ndarray], reader: TextReader) -> tuple[dict[str, list[Text]], float]:
    """What is found in the views as they are, and processor seconds per view."""
    start = time.process_time()
    found = {name: reader.read(view) for name, view in views.items()}
    return found, (time.process_time() - start) / len(views)


def in_views(
    views: Mapping[str, np.ndarray], found: Mapping[str, Sequence[Text]], reader: TextReader
) -> list[dict[str, Any]]:
    """One row per string planted in a view: its height, and the share of its ink in found boxes."""
    rows = []
    for i in range(IN_VIEWS):
        name = list(views)[i % len(views)]
        planted = plant(name, views[name], [text.box for text in found[name]], random.Random(i))
        left_over = planted.ink.copy()
        for top, left, height, width in (text.box for text in reader.read(planted.pixels)):
            left_over[top : top + height, left : left + width] = False
        rows.append({
            "set": "DDTI" if name.startswith("ddti") else "BUS-BRA",
            "height": planted.height,
            "covered": 1 - left_over.sum() / planted.ink.sum(),
        })  # fmt: skip
    return rows


def on_surround(ddti: Path, reader: TextReader) -> list[dict[str, Any]]:
    """One row per string planted outside the sonograms: whether a pixel of it is left in a view of either profile."""
    import numpy as np

    from workflow_scripts.data.sonogram import find_sonograms

    draws = random.Random(1)
    files = sorted(ddti.glob("*.jpg"))
    rows = []
    for i in range(ON_SURROUND):
        path = files[i % len(files)]
        frame = _grey(path)
        boxes = find_sonograms(frame)
        planted = plant(path.stem, frame, boxes, draws)
        row = {
            "boxes": all(np.array_equal(_cut(planted.pixels, box), _cut(frame, box)) for box in boxes),
            "auto": True,
            "found": False,
        }
        for box in find_sonograms(planted.pixels):
            top, left, height, width = box
            if planted.ink[top : top + height, left : left + width].any():
                row["auto"] = False
                row["found"] |= bool(reader.read(_cut(planted.pixels, box)))
        rows.append(row)
    return rows


def summary(
    found: Mapping[str, Sequence[Text]], seconds: float, inside: Sequence[Mapping[str, Any]],
    surround: Sequence[Mapping[str, bool]],
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of the result."""
    with FIXTURE.open(encoding="utf-8", newline="") as file:
        with_text = {row["view_id"] for row in csv.DictReader(file)}
    clean = [name for name in found if name not in with_text]
    alarms = [name for name in clean if found[name]]
    bands = ((7, 8), (9, 11), (12, 18), HEIGHTS)
    groups = [
        {"set": name, "lowest": low, "highest": high, **_shares(chosen)}
        for name in ("DDTI", "BUS-BRA", "both")
        for low, high in bands
        if (chosen := [row for row in inside if name in ("both", row["set"]) and low <= row["height"] <= high])
    ]
    right = sum(row["covered"] == 1 for row in inside) + sum(row["auto"] for row in surround)
    actions = len(inside) + len(surround) + len(clean)
    return [
        *({"what": "planted in views", **group} for group in groups),
        {
            "what": "planted on the surround", "strings": len(surround),
            "gone_boxes": sum(row["boxes"] for row in surround) / len(surround),
            "gone_auto": sum(row["auto"] for row in surround) / len(surround),
            "left_by_auto": sum(not row["auto"] for row in surround),
            "left_by_auto_and_found": sum(row["found"] for row in surround),
        },
        {
            "what": "views without text", "views": len(clean), "false_alarms": len(alarms),
            "share": len(alarms) / len(clean), "views_with_text": len(found) - len(clean), "alarms": alarms,
        },
        {"what": "correct actions", "share": (right + len(clean) - len(alarms)) / actions, "actions": actions},
        {
            "what": "speed", "processor_seconds_per_view": seconds, "views_per_second_and_core": 1 / seconds,
            "minutes_for_the_study": STUDY_VIEWS * seconds / CORES / 60, "views": STUDY_VIEWS, "cores": CORES,
        },
    ]  # fmt: skip


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    return {
        "strings": len(rows),
        "found": sum(row["covered"] >= 0.5 for row in rows) / len(rows),
        "blanked_whole": sum(row["covered"] == 1 for row in rows) / len(rows),
    }


def _grey(path: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def _cut(frame: np.ndarray, box: Sequence[int]) -> np.ndarray:
    from workflow_scripts.data.profiles import letterbox, resize

    top, left, height, width = box
    return resize(letterbox(frame[top : top + height, left : left + width]), SIDE)


def write_page(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the result into docs/data.md."""
    of = {row["what"]: row for row in rows}
    surround, clean, actions, speed = (
        of[what] for what in ("planted on the surround", "views without text", "correct actions", "speed")
    )

    def percent(share: float) -> str:
        return f"{100 * share:.1f} %"

    lines = ["| measured | on | result |", "|---|---|---|"]
    for profile in ("boxes", "auto"):
        on = f"{surround['strings']} strings on DDTI's surround"
        lines.append(f"| gone after the crop, profile `{profile}` | {on} | {percent(surround[f'gone_{profile}'])} |")
    for row in rows:
        if row["what"] == "planted in views" and (row["set"] == "both" or (row["lowest"], row["highest"]) == HEIGHTS):
            sets = "DDTI and BUS-BRA" if row["set"] == "both" else row["set"]
            on = f"{row['strings']} strings in views of {sets}, capitals of {row['lowest']} to {row['highest']} pixels"
            lines.append(
                f"| found (blanked whole) | {on} | {percent(row['found'])} ({percent(row['blanked_whole'])}) |"
            )
    lines += [
        f"| false alarms | {clean['views']} views without text | {percent(clean['share'])} |",
        f"| correct actions with `blank` | {actions['actions']} of these | {percent(actions['share'])} |",
        f"| speed | one core, {SIDE} pixels | {speed['views_per_second_and_core']:.1f} views/s: {speed['views']} views in "
        f"{speed['minutes_for_the_study']:.0f} minutes on {speed['cores']} cores (projected) |",
    ]
    write_on_page(PAGE, "burnt_in_text", "\n".join(lines))


def main() -> None:
    """Plant, read, write benchmarks/results/burnt_in_text.json."""
    from workflow_scripts.data.text import TextReader

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddti", type=Path, required=True, help="folder of DDTI's 480 JPEG files")
    parser.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA's 1 875 PNG files")
    arguments = parser.parse_args()
    reader = TextReader(SIDE)
    views = clean_views(arguments.ddti, arguments.busbra)
    found, seconds = read_clean(views, reader)
    rows = summary(found, seconds, in_views(views, found, reader), on_surround(arguments.ddti, reader))
    print(write_result("burnt_in_text", rows, view_size=SIDE, least_contrast=CONTRAST))
    write_page(rows)


if __name__ == "__main__":
    main()
