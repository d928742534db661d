"""The size of a leak: what the two splits score, and the paired difference."""

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.tables import make_leak_table as leak_table
from workflow_scripts.tables.make_leak_table import leak_layout, leak_numbers


def predictions(accuracy: float, by_view: bool, seeds: int = 2) -> pd.DataFrame:
    """Forty patients of four views, predicted right with a given probability."""
    rows = []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        for patient in range(40):
            for view in range(4):
                label = "pos" if patient % 4 == 0 else "neg"
                right = draw.random() < accuracy
                prediction = label if right else {"pos": "neg", "neg": "pos"}[label]
                fold = (patient + view) % 3 if by_view else patient % 3
                rows.append((f"{patient}#{view}", f"p{patient}", fold, seed, label, label, 1, prediction))
    columns = ["view_id", "patient_id", "fold", "seed", "label_original", "label_policy", "kept", "prediction"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(probability=(table["prediction"] == "pos") * 0.8 + 0.1)


def test_numbers() -> None:
    honest, leaky = predictions(0.7, False), predictions(0.9, True)
    values = leak_numbers(honest, leaky, "pos", "runs")
    assert values["split_patients"].tolist() == [0, 100]
    rates = [
        100 * (table["prediction"] == table["label_original"]).groupby(table["seed"]).mean().mean()
        for table in (honest, leaky)
    ]
    assert values["difference"].iloc[1] == pytest.approx(rates[1] - rates[0])
    assert 0 < values["difference_low"].iloc[1] < values["difference"].iloc[1] < values["difference_high"].iloc[1]
    assert np.isnan(values["difference"].iloc[0])
    page = leak_layout(values, "ImageNet", 2, 3, "runs", "")
    assert page.rows[0][1] == "0 %"
    assert page.rows[1][1] == "100 %"
    assert "points that would not hold for a new patient" in page.notes[-1]
    same = leak_layout(leak_numbers(honest, predictions(0.7, True), "pos", "runs"), "x", 2, 3, "runs", "")
    assert "no leak larger than noise" in same.notes[-1]


def test_predictions_of_other_views_are_refused() -> None:
    with pytest.raises(UserError, match="not predictions of the same views and seeds"):
        leak_numbers(predictions(0.7, False), predictions(0.7, True)[4:], "pos", "runs")


def test_stage(tmp_path) -> None:
    for name, table in (("a", predictions(0.7, False)), ("b", predictions(0.9, True))):
        for seed, part in table.groupby("seed"):
            write_csv(part, tmp_path / f"{name}{seed}.csv")
    outputs = [word for s in ("csv", "md", "tex", "html") for word in (f"--output-{s}", str(tmp_path / f"t.{s}"))]
    arguments = [
        "--by-patient", str(tmp_path / "a0.csv"), str(tmp_path / "a1.csv"), "--by-view", str(tmp_path / "b0.csv"),
        str(tmp_path / "b1.csv"), "--title", "ImageNet", "--positive", "pos", "--origin", "PHANTOM", *outputs,
    ]  # fmt: skip
    leak_table.main(leak_table.parser().parse_args(arguments))
    assert read_csv(tmp_path / "t.csv")["origin"].tolist() == ["PHANTOM"] * 2
    for suffix in ("md", "html"):
        text = (tmp_path / f"t.{suffix}").read_text()
        assert "PHANTOM" in text
        assert "views dealt freely" in text
    write_csv(read_csv(tmp_path / "b1.csv").drop(columns="prediction"), tmp_path / "b1.csv")
    with pytest.raises(UserError, match=r"b1.csv has no column 'prediction'"):
        leak_table.main(leak_table.parser().parse_args(arguments))
