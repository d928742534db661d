"""A blind reading of generated views among real ones: which views a reader sees, and what her answers say.

The reader says of each view whether it is real or generated, and whether it is fit to be shared. Every real view is of
another patient, so that right answers are independent given the generator, and their share has an exact interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, read_spreadsheet
from workflow_scripts.core.randomness import philox
from workflow_scripts.privacy.canaries import exact_interval

GENERATED, REAL = "generated", "real"
KEY_COLUMNS = ("page", "view", "source", "name")
READING_COLUMNS = ("page", "view", "reading", "fit")
NOBODY = "Nobody has read these views: it is not known whether a clinician can tell them from real ones, or would share them."


@dataclass(frozen=True)
class Reading:
    """One reader's answers on `views` generated and as many real views; `unfit` are the numbers of generated ones."""

    views: int
    right_generated: int
    right_real: int
    unfit: frozenset[int]
    unfit_real: int

    @property
    def text(self) -> str:
        """What the reader could tell and would share, in sentences; intervals are exact (Clopper and Pearson)."""
        right, each = self.right_generated + self.right_real, self.views
        return (
            f"A reader saw {each} of the views that were to be released among {each} real ones, each of another patient, in"
            f" random order and without their source. Right answers to real or generated: {_share(right, 2 * each)}; 50 % is"
            f" guessing. Of the generated views, called generated: {_share(self.right_generated, each)}; of the real ones,"
            f" called real: {_share(self.right_real, each)}. Called not fit to be shared: {_share(len(self.unfit), each)} of"
            f" the generated views, which are left out, and {_share(self.unfit_real, each)} of the real ones. Generated"
            " views that were not on the page were not read, and are in the set."
        )


def _share(found: int, count: int) -> str:
    low, high = exact_interval(found, count)
    return f"{found} of {count}, {100 * found / count:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def file_name(number: int) -> str:
    """The name of a generated view in the released set."""
    return f"synthetic_{number:06d}.png"


def releasable(filtered: Iterable[Mapping[str, str]], audited: Iterable[Mapping[str, str]]) -> list[int]:
    """Numbers of the views that the filter keeps and the copy audit does not flag, from the rows of both tables."""
    rows = zip(filtered, audited, strict=True)
    return [number for number, (kept, copy) in enumerate(rows) if kept["inside"] == "1" and copy["copy"] != "1"]


def without_text(numbers: Iterable[int], text: Path) -> list[int]:
    """Those of the numbers in whose views OCR found none, by the table `text`."""
    found = {row["view_id"] for row in read_rows(text)}
    return [number for number in numbers if file_name(number) not in found]


def draw_views(generated: Sequence[int], patients: np.ndarray, views: int, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the generated and rows of the real views to read, equally many: `views`, or as many as there are.

    `generated` are the numbers to draw from, `patients` (N,) who each real view shows; no patient is drawn twice.
    """
    generator = philox(seed, "reading")
    names = np.unique(patients)
    count = min(views, len(generated), len(names))
    numbers = generator.choice(np.asarray(generated, np.int64), count, replace=False)
    drawn = generator.choice(names, count, replace=False)
    return numbers.tolist(), [int(generator.choice(np.flatnonzero(patients == name))) for name in drawn]


def blind_order(pixels: Sequence[np.ndarray], seed: int) -> list[int]:
    """Positions of the views (each uint8 (side, side)) in an order that tells nothing of their source.

    By a hash of their pixels: who knows seed and program, but not the views, cannot repeat a draw.
    """
    return sorted(range(len(pixels)), key=lambda i: hashlib.sha256(f"{seed}\n".encode() + pixels[i].tobytes()).digest())


def fingerprint(pixels: Iterable[np.ndarray]) -> str:
    """Names the page that readings belong to: its views in their order. A spreadsheet takes it for no number."""
    digest = hashlib.sha256()
    for view in pixels:
        digest.update(view.tobytes())
    return f"page-{digest.hexdigest()[:16]}"


def read_readings(readings: Path, key: Path) -> Reading:
    """The answers in `readings`, as the page or a spreadsheet saved them, compared with the page's `key`.

    Raises `UserError` where they belong to another page, say anything else than the page asks, or leave a view out:
    a reader who stops when she likes would choose her own score.
    """
    shown = {row["view"]: row for row in read_rows(key)}
    page = next(iter(shown.values()))["page"]
    answers: dict[str, dict[str, str]] = {}
    for line, row in enumerate(read_spreadsheet(readings), start=2):
        where, absent = f"{readings}, line {line}", [name for name in READING_COLUMNS if row.get(name) is None]
        if absent:
            raise UserError(f"{where}: it lacks {', '.join(absent)}; download the file from the reading page again")
        if row["page"] != page:
            raise UserError(
                f"{where}: {row['page']!r} was read, but the present page is {page!r}: the views have changed since; have the"
                " present reading.html read, or empty release.readings"
            )
        view = row["view"]
        if view not in shown or view in answers:
            wrong = "is answered twice; keep one line per view" if view in answers else "is not on the page"
            raise UserError(f"{where}: view {view!r} {wrong}")
        for name, known in (("reading", (REAL, GENERATED)), ("fit", ("yes", "no"))):
            if row[name] not in known:
                raise UserError(f"{where}: {name} {row[name]!r} is neither {known[0]} nor {known[1]}")
        answers[view] = row
    if len(answers) < len(shown):
        raise UserError(
            f"{readings} holds {len(answers)} of the page's {len(shown)} views; read the others too, and download it again"
        )
    right = {source: 0 for source in (GENERATED, REAL)}
    unfit: dict[str, list[str]] = {GENERATED: [], REAL: []}
    for view, row in shown.items():
        right[row["source"]] += answers[view]["reading"] == row["source"]
        if answers[view]["fit"] == "no":
            unfit[row["source"]].append(row["name"])
    return Reading(
        len(shown) // 2, right[GENERATED], right[REAL], frozenset(map(int, unfit[GENERATED])), len(unfit[REAL])
    )
