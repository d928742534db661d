"""Predictions of external views, by networks and by baselines."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.finetuning.test_baselines import CLASSES, speckle
from workflow_scripts.core.files import read_csv, write_csv, write_npy
from workflow_scripts.finetuning import predict_external, predict_external_baseline
from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS
from workflow_scripts.runtime.cli import run


def store(folder: Path, name: str, patients: int) -> pd.DataFrame:
    """A store of two views per patient whose class is their speckle, and its index."""
    draw = np.random.default_rng(len(name))
    truth = np.arange(patients) % 3 == 0
    views = np.stack([speckle(draw, 2.0 if truth[i // 2] else 0.8) for i in range(2 * patients)])
    index = pd.DataFrame(
        {
            "view_id": [f"{name}{i}#v" for i in range(2 * patients)],
            "patient_id": [f"{name}{i // 2:02d}" for i in range(2 * patients)],
            "label": np.where(truth, "pos", "neg").repeat(2),
        }
    )
    write_npy(views, folder / f"{name}.npy")
    write_csv(index, folder / f"{name}.csv")
    return index


def test_every_network_predicts_every_external_view(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from workflow_scripts.networks.backbone import Classifier, create_backbone, save_weights
    from workflow_scripts.networks.cross_validation import predict

    index = store(tmp_path, "external", 4)
    networks = {
        (seed, fold): Classifier(create_backbone("test_resnet", seed), fold) for seed in (0, 3) for fold in (0, 1)
    }
    files = []
    for (seed, fold), network in networks.items():
        files.append(tmp_path / f"seed{seed}_fold{fold}.safetensors")
        parameters = {"backbone": "test_resnet", "classes": CLASSES, "seed": seed, "fold": fold}
        save_weights(network.state_dict(), parameters, files[-1])
    flags = ["--views", f"{tmp_path}/external.npy", "--index", f"{tmp_path}/external.csv", "--device", "cpu",
             "--weights", *map(str, files), "--output-predictions", f"{tmp_path}/out.csv", "--classes"]  # fmt: skip
    run(predict_external.main, predict_external.parser(), [*flags, *CLASSES])
    table = read_csv(tmp_path / "out.csv")
    assert list(table) == EXTERNAL_COLUMNS
    assert table.groupby(["seed", "fold"]).size().to_dict() == dict.fromkeys(networks, len(index))
    import torch

    pixels = torch.from_numpy(np.load(tmp_path / "external.npy"))
    for (seed, fold), part in table.groupby(["seed", "fold"]):
        assert part["view_id"].tolist() == index["view_id"].tolist()
        assert part["label"].tolist() == index["label"].tolist()
        np.testing.assert_allclose(part["probability"], predict(networks[seed, fold].eval(), pixels), rtol=1e-6)
    with pytest.raises(SystemExit):
        run(predict_external.main, predict_external.parser(), [*flags, "pos", "neg"])
    assert "seed0_fold0.safetensors tells neg from pos, not pos from neg" in capsys.readouterr().err


@pytest.mark.parametrize("baseline", ["texture", "majority"])
def test_baselines_learn_from_the_study_and_predict_elsewhere(tmp_path: Path, baseline: str) -> None:
    external = store(tmp_path, "external", 6)
    study = store(tmp_path, "study", 18)
    labels, folds = [], []
    for seed in (0, 1):
        fold = (pd.factorize(study["patient_id"])[0] // 3 + seed) % 3
        folds.append(tmp_path / f"folds{seed}.csv")
        write_csv(study[["view_id", "patient_id"]].assign(fold=fold), folds[-1])
        labels.append(tmp_path / f"labels{seed}.csv")
        write_csv(study[["view_id", "label"]].assign(keep=1), labels[-1])
    run(
        predict_external_baseline.main, predict_external_baseline.parser(),
        ["--baseline", baseline, "--views", f"{tmp_path}/external.npy", "--index", f"{tmp_path}/external.csv",
         "--real-views", f"{tmp_path}/study.npy", "--real-index", f"{tmp_path}/study.csv", "--labels", *map(str, labels),
         "--folds", *map(str, folds), "--seeds", "0", "1", "--classes", *CLASSES,
         "--output-predictions", f"{tmp_path}/out.csv"],
    )  # fmt: skip
    table = read_csv(tmp_path / "out.csv")
    assert list(table) == EXTERNAL_COLUMNS
    assert table.groupby(["seed", "fold"]).size().to_dict() == {(s, f): len(external) for s in (0, 1) for f in range(3)}
    if baseline == "texture":
        assert ((table["probability"] > 0.5) == (table["label"] == "pos")).all()
    else:
        np.testing.assert_allclose(table["probability"], 1 / 3)
