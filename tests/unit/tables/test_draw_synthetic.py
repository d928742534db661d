"""The figure of table 5: AUROC with its interval, and a point per network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv
from workflow_scripts.tables import draw_synthetic
from workflow_scripts.tables.draw_synthetic import auroc_with_interval

CLASSES = ["neg", "pos"]


def predictions(skill: float, seed: int = 0) -> pd.DataFrame:
    """Two views of 30 patients in three folds; the larger `skill`, the better they are told apart."""
    generator, patient = np.random.default_rng(seed), np.repeat(np.arange(30), 2)
    positive = patient % 2 == 1
    probability = 1 / (1 + np.exp(-generator.normal(np.where(positive, skill, -skill), 1)))
    labels = np.where(positive, "pos", "neg")
    return pd.DataFrame({
        "view_id": [f"v{row}" for row in range(60)], "patient_id": [f"p{p}" for p in patient], "fold": patient // 2 % 3,
        "seed": 0, "label_original": labels, "label_policy": labels, "kept": 1, "probability": probability,
        "prediction": np.where(probability > 0.5, "pos", "neg"),
    })  # fmt: skip


def test_auroc_is_the_mean_over_the_runs_within_its_interval():
    table = predictions(0.5)
    by_fold = [roc_auc_score(part["label_policy"] == "pos", part["probability"]) for _, part in table.groupby("fold")]
    auroc, low, high = auroc_with_interval(table, "pos")
    assert auroc == pytest.approx(np.mean(by_fold))
    assert 0.5 < low < auroc < high <= 1


def test_the_stage_draws_a_point_per_network(tmp_path: Path):
    rows = [
        {"name": name, "experiment": name, "init": name, "switches": {"labels of synthetic views": labels}}
        for name, labels in (("real", "–"), ("alone", "asked"), ("majority", "–"))
    ]
    for name in ("real", "alone", "majority"):
        write_csv(predictions(1), tmp_path / f"{name}.csv")
    files = [str(tmp_path / f"{row['name']}.csv") for row in rows]
    words = [
        "--rows", json.dumps(rows), "--experiments", "real", "alone", "majority", "--predictions", *files,
        "--classes", *CLASSES, "--output-figure", str(tmp_path / "figure.png"), "--synthetic-shares", "0",
    ]  # fmt: skip
    with pytest.raises(UserError, match="names 1 shares for 2 networks"):
        draw_synthetic.main(draw_synthetic.parser().parse_args(words))
    draw_synthetic.main(draw_synthetic.parser().parse_args([*words, "1"]))
    assert (tmp_path / "figure.png").stat().st_size > 10_000
