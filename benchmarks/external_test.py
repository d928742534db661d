"""What an external test of 844 patients costs with the shipped settings, from frames to table and figures.

As many patients as BUS-BRA has beside the 220 that `studies/busbra.yaml` labels, each with a frame of two views. The
stages run as the workflow's jobs do, on one core. Frames are phantoms of `--measured` patients, and networks have random
weights, which cost what trained ones do; cropping and predicting are projected from these to all patients and networks,
which counts their start-up as often, so that the times are upper bounds. The table is made of as many predictions as
there would be, drawn at random. An interrupted run with the same `--work-dir` keeps the stages that it has measured.

    python -m benchmarks.external_test [--measured 844] [--work-dir EMPTY_FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import kept, spent, write_result

if TYPE_CHECKING:
    import pandas as pd

REPOSITORY = Path(__file__).parents[1]
PATIENTS, ROWS, NETWORKS = 844, 5, 4


def shipped() -> dict[str, Any]:
    """config.yaml with the schema's defaults."""
    import yaml

    from workflow_scripts.study.config import load_config

    file = REPOSITORY / "config.yaml"
    return load_config(yaml.safe_load(file.read_text(encoding="utf-8")), [file])


def draw_frames(folder: Path, patients: int) -> None:
    """A frame of each phantom patient, a fifth of them positive, and their manifest, in a new or the same folder."""
    from PIL import Image

    from workflow_scripts.core.files import write_rows
    from workflow_scripts.data.phantom import draw_frame

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        name, positive = f"P{number:03d}", number % 5 == 0
        frame = draw_frame(0, name, name, "testicle", positive, thyroid=False)
        Image.fromarray(frame).save(folder / f"{name}.png")
        rows.append({
            "image_id": name, "path": f"{name}.png", "patient_id": name, "organ": "testicle",
            "label": "inhomogeneous" if positive else "homogeneous", "device": "esaote_mylab", "side": "left",
        })  # fmt: skip
    write_rows(rows, list(rows[0]), folder / "manifest.csv")


def save_networks(folder: Path, config: dict[str, Any]) -> list[str]:
    """NETWORKS classifiers with random weights, as `finetune` writes them; their files."""
    from workflow_scripts.networks.backbone import save_weights
    from workflow_scripts.networks.cross_validation import initial_classifier

    files = []
    for seed in range(NETWORKS):
        model = initial_classifier(config["model"]["backbone"], "scratch", None, seed, 0)
        facts = {
            "backbone": config["model"]["backbone"], "classes": config["data"]["classes"], "seed": seed, "fold": 0,
        }  # fmt: skip
        files.append(folder / f"seed{seed}_fold0.safetensors")
        save_weights(model.state_dict(), facts, files[-1])
    return [str(file) for file in files]


def predict_at_random(folder: Path, config: dict[str, Any]) -> None:
    """The index of all patients' views, no near-duplicates, and predictions by every network of ROWS rows."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.data.find_near_duplicates import COLUMNS

    draw = np.random.default_rng(0)
    number = np.arange(2 * PATIENTS) // 2
    index = pd.DataFrame({
        "view_id": [f"V{i:04d}" for i in range(2 * PATIENTS)], "patient_id": [f"P{i:03d}" for i in number],
        "label": np.array(config["data"]["classes"])[(number % 5 == 0).astype(int)], "side": "left",
        "organ": "testicle", "image_id": [f"P{i:03d}" for i in number],
    })  # fmt: skip
    write_csv(index, folder / "index.csv")
    write_csv(pd.DataFrame(columns=list(COLUMNS)), folder / "pairs.csv")
    for row in range(ROWS):
        write_csv(pd.concat(_networks(index, config, draw)), folder / f"row{row}.csv")


def _networks(index: pd.DataFrame, config: dict[str, Any], draw: Any) -> list[pd.DataFrame]:
    return [
        index[["view_id", "patient_id", "label"]].assign(seed=seed, fold=fold, probability=draw.random(len(index)))
        for seed in config["seeds"]
        for fold in range(config["folds"])
    ]


def stages(folder: Path, config: dict[str, Any]) -> dict[str, Sequence[str]]:
    """The command lines by stage."""
    data, classes = config["data"], ["--classes", *config["data"]["classes"]]
    names = [f"row{row}" for row in range(ROWS)]
    table_rows = [
        {"name": "none (scratch)" if not row else names[row], "experiment": names[row]} for row in range(ROWS)
    ]
    return {
        "data.crop_views": [
            f"--manifest={folder}/manifest.csv", f"--root={folder}", "--set=labelled", "--target-organ=testicle",
            f"--profiles={json.dumps(data['crop_profiles'])}", f"--size={data['size']}", "--threads=1",
            f"--on-text={data['on_text']}", f"--output-views={folder}/views.npy", f"--output-index={folder}/views.csv",
        ],
        "finetuning.predict_external": [
            f"--views={folder}/views.npy", f"--index={folder}/views.csv", "--weights", *save_networks(folder, config),
            *classes, "--device=cpu", "--threads=1", f"--output-predictions={folder}/predictions.csv",
        ],
        "tables.make_external_table": [
            "--table=table2", "--external=others", "--title=844 phantoms", f"--rows={json.dumps(table_rows)}",
            "--experiments", *names, "--predictions", *(f"{folder}/{name}.csv" for name in names),
            f"--index={folder}/index.csv", f"--real-index={folder}/index.csv", f"--pairs={folder}/pairs.csv", *classes,
            *(f"--output-{kind}={folder}/table.{kind}" for kind in ("csv", "md", "tex", "html")),
            f"--output-figure={folder}/forest.png", f"--output-calibration={folder}/calibration.png",
        ],
    }  # fmt: skip


def main() -> None:
    """Draw, crop, predict, tabulate; write benchmarks/results/external_test.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=int, default=PATIENTS // 4, help="patients with frames (default: 211)")
    parser.add_argument("--work-dir", type=Path, help="kept, for a run that continues an interrupted one")
    arguments = parser.parse_args()
    measured = arguments.measured
    config = shipped()
    networks = len(config["seeds"]) * config["folds"]
    of_all = PATIENTS / measured
    factors = {"crop_views": of_all, "predict_external": of_all * networks / NETWORKS, "make_external_table": 1}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.work_dir or Path(name)
        draw_frames(folder, measured)
        predict_at_random(folder, config)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for stage, words in stages(folder, config).items():
            command = [sys.executable, "-m", f"workflow_scripts.{stage}", *words]
            cost = kept(folder / f"{stage}.json", partial(spent, command, REPOSITORY, environment))
            factor = factors[stage.partition(".")[2]]
            rows.append({
                "stage": stage.partition(".")[2], "measured_cpu_seconds": cost["cpu_seconds"], "times": factor,
                "cpu_seconds": factor * cost["cpu_seconds"], "peak_memory_mib": cost["peak_memory_mib"],
            })  # fmt: skip
            print(rows[-1], flush=True)
    facts = {"patients": PATIENTS, "views": 2 * PATIENTS, "view_size": config["data"]["size"], "networks": networks}
    facts |= {"backbone": config["model"]["backbone"], "table_rows": ROWS, "measured_patients": measured}
    print(write_result("external_test", rows, **facts))


if __name__ == "__main__":
    main()
