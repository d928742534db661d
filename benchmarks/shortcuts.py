"""What the shortcut audit finds: BUS-BRA as it is published, a planted calliper, and shuffled labels.

BUS-BRA's 1 875 views are cut whole at the shipped view size. The other studies are drawn from its patients, as many as
the paper has and a fifth of them positive, at random: nothing tells these labels. In some a calliper (a plus sign) is
burnt into 80 % of the positive views, beside the text that many views hold from the start.

    python -m benchmarks.shortcuts --busbra BUSBRA_FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import write_result

if TYPE_CHECKING:
    import pandas as pd

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"
SIDE = 256
PATIENTS, POSITIVES = 220, 44
PLANTED, STUDIES = 0.8, 50
# The chance of a false alarm is 10 of 200 with 199 permutations, and 100 of 2 000 with the audit's 1 999.
SHUFFLED, PERMUTATIONS = 1000, 199
PLUS = 1  # the kind of marker


def load_views(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """All views uint8 (N, SIDE, SIDE) and their index, as `crop_views` writes it."""
    import pandas as pd

    from workflow_scripts.core.log import progress
    from workflow_scripts.data.frames import read_frames
    from workflow_scripts.data.profiles import cut_views
    from workflow_scripts.tools.import_busbra import breast_row, read_views

    pixels, rows = [], []
    for source in progress(read_views(folder), "cutting", "view"):
        row = breast_row(source, source["Pathology"], ".")
        (frame,) = read_frames(row["path"], folder, row["image_id"])
        (view,) = cut_views(frame, {"kind": "none"}, SIDE, row["image_id"])
        pixels.append(view.pixels)
        rows.append({**row, "coloured": view.coloured, "height": view.shape[0], "width": view.shape[1]})
    return np.stack(pixels), pd.DataFrame(rows)


def burnt_in(views: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """The views uint8 (N, SIDE, SIDE), each with a plus sign at a random place."""
    import torch

    from workflow_scripts.networks.markers import DRAWS, burn_in

    images = torch.from_numpy(views[:, None]).float() / 255
    burn_in(images, PLUS, np.arange(len(views)), draws.random((len(views), DRAWS - 1)))
    return np.round(255 * images[:, 0].numpy()).astype(np.uint8)


def random_study(patients: Sequence[str], draws: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """PATIENTS of the patients, sorted, and their labels bool (PATIENTS,), POSITIVES of them true; all at random."""
    chosen = draws.permutation(patients)[:PATIENTS]
    positive = set(chosen[:POSITIVES])
    return sorted(chosen), np.array([patient in positive for patient in sorted(chosen)])


def as_published(features: Mapping[str, pd.DataFrame], truth: np.ndarray) -> list[dict[str, Any]]:
    """Every test on BUS-BRA's own labels."""
    from workflow_scripts.audit.shortcuts import TITLES, find_shortcuts

    return [
        {"what": "as published", "told_from": TITLES[found.test], "patients": len(truth), **asdict(found)}
        for found in find_shortcuts(dict(features), truth)
    ]


def with_callipers(views: np.ndarray, index: pd.DataFrame, measured: pd.DataFrame) -> dict[str, Any]:
    """How many of STUDIES studies the test of callipers finds at p < 0.001, and its AUROC and p over them."""
    from workflow_scripts.audit.shortcuts import find_shortcuts, patient_features
    from workflow_scripts.audit.view_features import measure_views

    found = []
    for number in range(STUDIES):
        draws = np.random.default_rng([1, number])
        patients, truth = random_study(sorted(set(index["patient_id"])), draws)
        rows = np.flatnonzero(index["patient_id"].isin(patients))
        positive = index["patient_id"].iloc[rows].isin(np.array(patients)[truth]).to_numpy()
        marked = rows[positive & (draws.random(len(rows)) < PLANTED)]
        own = measured.copy()
        own.iloc[marked] = measure_views(burnt_in(views[marked], draws), index.iloc[marked]).to_numpy()
        tests = find_shortcuts(patient_features(own.iloc[rows], index.iloc[rows]), truth, seed=number)
        found.append(next(each for each in tests if each.test == "overlay"))
    aurocs, p = [each.auroc for each in found], [each.p_corrected for each in found]
    return {
        "what": "calliper in positives", "share": PLANTED, "studies": STUDIES, "found": int(np.sum(np.array(p) < 0.001)),
        "largest_p_corrected": max(p), "auroc_median": float(np.median(aurocs)), "auroc_least": min(aurocs),
        "auroc_most": max(aurocs),
    }  # fmt: skip


def shuffled(features: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """How many of SHUFFLED studies raise an alarm though nothing tells their labels, with a 95 % interval."""
    from scipy.stats import binomtest

    from workflow_scripts.audit.shortcut_table import is_alarm
    from workflow_scripts.audit.shortcuts import find_shortcuts

    alarms = 0
    for number in range(SHUFFLED):
        patients, truth = random_study(list(features["size"].index), np.random.default_rng([2, number]))
        own = {kind: table.loc[patients] for kind, table in features.items()}
        alarms += any(map(is_alarm, find_shortcuts(own, truth, PERMUTATIONS, number)))
    low, high = binomtest(alarms, SHUFFLED).proportion_ci(0.95)
    return {
        "what": "labels at random", "studies": SHUFFLED, "alarms": alarms, "share": alarms / SHUFFLED, "share_low": low,
        "share_high": high,
    }  # fmt: skip


def write_page(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the result into docs/audit.md."""
    from workflow_scripts.core.tables import p_value

    lines = ["| labels | told from | result |", "|---|---|---|"]
    for row in rows:
        if row["what"] == "as published":
            lines.append(
                f"| BUS-BRA's, {row['patients']} patients | {row['told_from']} | AUROC {row['auroc']:.2f} ({row['low']:.2f} to "
                f"{row['high']:.2f}), corrected p {p_value(row['p_corrected'])} |"
            )
    planted, random = rows[-2:]
    lines += [
        f"| at random, a calliper in {100 * planted['share']:.0f} % of positive views | callipers and text | corrected "
        f"p < 0.001 in {planted['found']} of {planted['studies']} studies; AUROC {planted['auroc_median']:.2f} (median; "
        f"{planted['auroc_least']:.2f} to {planted['auroc_most']:.2f}) |",
        f"| at random, nothing planted | any | a warning in {random['alarms']} of {random['studies']} studies, "
        f"{100 * random['share']:.1f} % ({100 * random['share_low']:.1f} to {100 * random['share_high']:.1f}) |",
    ]
    begin, end = "<!-- benchmark: shortcuts -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(head + begin + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


def main() -> None:
    """Test, plant, shuffle; write benchmarks/results/shortcuts.json and the table of docs/audit.md."""
    from workflow_scripts.audit.shortcuts import patient_features
    from workflow_scripts.audit.view_features import measure_views

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busbra", type=Path, required=True, help="folder with bus_data.csv and Images/")
    views, index = load_views(parser.parse_args().busbra)
    measured = measure_views(views, index)
    features = patient_features(measured, index)
    truth = (index["label"] == "malignant").groupby(index["patient_id"]).any().to_numpy()
    rows = [*as_published(features, truth), with_callipers(views, index, measured), shuffled(features)]
    for row in rows:
        print(row)
    print(write_result("shortcuts", rows, view_size=SIDE, patients=PATIENTS, positives=POSITIVES))
    write_page(rows)


if __name__ == "__main__":
    main()
