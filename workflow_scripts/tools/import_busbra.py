"""Write the manifests of a study of BUS-BRA, with DDTI's thyroids as the second organ: studies/busbra.yaml.

BUS-BRA (Gomez-Flores et al., Medical Physics 2024) has 1 875 breast views of 1 064 patients. Download and unpack it
yourself; the folder holds `bus_data.csv` and `Images/`. DDTI (Pedraza et al., SPIE 9287, 2015) is a folder of screenshots
called <case>_<number>.jpg.

The roles are those of the paper. `--labelled-patients`, drawn by `--seed`, keep their labels (LD). The views of all other
patients stay in the study without their labels (UD), or leave it with `--leave-out-others`. These patients, with their
labels, are the external manifest: the study's classifiers are tested on them and never learn from their labels.

    python -m workflow_scripts.tools.import_busbra --busbra data/busbra --thyroids data/ddti \\
        --output-manifest data/busbra.csv --output-external data/busbra_external.csv
"""

from __future__ import annotations

import argparse
import os
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_outputs
from workflow_scripts.runtime.cli import run, stage_parser

CLASSES = ("benign", "malignant")
COLUMNS = ("image_id", "path", "patient_id", "organ", "label", "device", "side", "scanner")
NEEDED = ("ID", "Case", "Pathology", "Device")
THYROID = re.compile(r"(\d+)_\d+\.(jpe?g|png)", re.IGNORECASE)
TERMS = """BUS-BRA may be used and passed on with its licence (LICENSE.txt) by whoever cites:
  W. Gomez-Flores, M. J. Gregorio-Calas, W. C. A. Pereira: BUS-BRA: A breast ultrasound dataset for assessing computer-aided
  diagnosis systems. Medical Physics 51 (2024).
DDTI is open access without a licence text; cite:
  L. Pedraza et al.: An open access thyroid ultrasound image database. Proc. SPIE 9287 (2015)."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--busbra", type=Path, required=True, help="folder with bus_data.csv and Images/")
    parser.add_argument("--thyroids", type=Path, required=True, help="DDTI's folder of <case>_<number>.jpg")
    parser.add_argument(
        "--labelled-patients", type=int, default=220, help="patients that keep their labels (default: 220)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of their draw (default: 0)")
    parser.add_argument(
        "--leave-out-others", action="store_true",
        help="leave the views of all other patients out of the study, so that pretraining never sees their pixels",
    )  # fmt: skip
    add_outputs(parser, "manifest")
    parser.add_argument(
        "--output-external", type=Path, required=True, help="manifest of the patients outside the study, .csv"
    )
    return parser


def read_views(folder: Path) -> list[dict[str, str]]:
    """The rows of bus_data.csv. `UserError` where the file, a column, a class or a picture is missing."""
    table = folder / "bus_data.csv"
    rows = read_rows(table)
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{table} is not BUS-BRA's table: it has no column {', '.join(missing)}")
    problems = [
        f"{row['ID']}: Pathology {row['Pathology']!r} is neither benign nor malignant"
        for row in rows if row["Pathology"] not in CLASSES
    ]  # fmt: skip
    problems += [
        f"Images/{row['ID']}.png does not exist"
        for row in rows
        if not (folder / "Images" / f"{row['ID']}.png").is_file()
    ]
    if problems:
        more = f" … and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(
            f"{folder} is not complete: {'; '.join(problems[:10])}{more}. Unpack the published archive again"
        )
    return rows


def thyroid_frames(folder: Path) -> dict[str, str]:
    """DDTI's pictures by file name, with their case; `UserError` where there is none."""
    if not folder.is_dir():
        raise UserError(f"the folder of thyroids {folder} does not exist")
    found = {file.name: match[1] for file in sorted(folder.iterdir()) if (match := THYROID.fullmatch(file.name))}
    if not found:
        raise UserError(f"{folder} holds no picture called <case>_<number>.jpg, as DDTI's are")
    return found


def draw_patients(rows: Sequence[Mapping[str, str]], count: int, seed: int) -> set[str]:
    """The patients (`Case`) that keep their labels, drawn without regard to their class."""
    patients = sorted({row["Case"] for row in rows}, key=lambda case: (len(case), case))
    if not 0 < count < len(patients):
        raise UserError(
            f"--labelled-patients must be between 1 and {len(patients) - 1}; BUS-BRA has {len(patients)} patients"
        )
    return set(random.Random(seed).sample(patients, count))


def breast_row(row: Mapping[str, str], label: str, folder: str) -> dict[str, str]:
    """A manifest row. Both views of a patient show the same lesion, so no side is named."""
    return {
        "image_id": row["ID"], "path": f"{folder}/Images/{row['ID']}.png", "patient_id": f"busbra_{row['Case']}",
        "organ": "breast", "label": label, "device": "busbra", "side": "",
        # The scanner without its transducer: "GE Logiq 7 @10-14MHz".
        "scanner": row["Device"].partition("@")[0].strip(),
    }  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """Read both folders, draw the labelled patients, write the two manifests."""
    views, thyroids = read_views(arguments.busbra), thyroid_frames(arguments.thyroids)
    labelled = draw_patients(views, arguments.labelled_patients, arguments.seed)
    root = Path(os.path.commonpath([arguments.busbra.resolve(), arguments.thyroids.resolve()]))
    busbra, ddti = (folder.resolve().relative_to(root).as_posix() for folder in (arguments.busbra, arguments.thyroids))

    study = [breast_row(row, row["Pathology"], busbra) for row in views if row["Case"] in labelled]
    others = [row for row in views if row["Case"] not in labelled]
    external = [breast_row(row, row["Pathology"], busbra) for row in others]
    if not arguments.leave_out_others:
        study += [breast_row(row, "", busbra) for row in others]
    study += [
        {"image_id": f"ddti_{Path(name).stem}", "path": f"{ddti}/{name}", "patient_id": f"ddti_{case}",
         "organ": "thyroid", "label": "", "device": "ddti", "side": "", "scanner": ""}
        for name, case in thyroids.items()
    ]  # fmt: skip
    write_rows(study, COLUMNS, arguments.output_manifest)
    write_rows(external, COLUMNS, arguments.output_external)

    kept = Counter(row["label"] for row in study if row["label"])
    say(
        f"{arguments.output_manifest}: {sum(kept.values())} labelled views of {len(labelled)} patients "
        f"({', '.join(f'{kept[name]} {name}' for name in CLASSES)}), "
        f"{sum(row['organ'] == 'breast' and not row['label'] for row in study)} breast views without a label, "
        f"{len(thyroids)} thyroids\n"
        f"{arguments.output_external}: {len(external)} labelled views of {len({row['patient_id'] for row in external})} "
        f"patients, for the external test\n"
        f"set data.root to {os.path.relpath(root)} unless it is; then: "
        f"snakemake --configfile studies/busbra.yaml --cores 2\n\n{TERMS}"
    )


if __name__ == "__main__":
    run(main, parser())
