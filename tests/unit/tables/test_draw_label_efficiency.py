"""The label-efficiency figure: its areas, its paired differences, and that unlike views are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.tables import draw_label_efficiency as figure


def predictions(quality: float, seed: int) -> pd.DataFrame:
    """A probe's table of forty patients with two views; better with all patients than with half of them."""
    draw = np.random.default_rng(seed)
    truth = np.repeat(np.arange(40) % 2 == 0, 2)
    parts = []
    for share, gain in ((0.5, 0.5), (1.0, 1.0)):
        score = gain * quality * truth + draw.normal(size=80)
        parts.append(
            pd.DataFrame(
                {"share": share, "draw": 0, "seed": 0, "view_id": [f"v{i}" for i in range(80)],
                 "patient_id": [f"p{i // 2}" for i in range(80)], "fold": np.arange(80) // 2 % 4,
                 "label_original": np.where(truth, "pos", "neg"), "probability": 1 / (1 + np.exp(-score))}
            )
        )  # fmt: skip
    return pd.concat(parts)


def test_a_better_network_is_better_with_an_interval(tmp_path: Path) -> None:
    for name, table in (("poor", predictions(0.2, 0)), ("good", predictions(3.0, 1))):
        write_csv(table, tmp_path / f"{name}.csv")
    words = ["--efficiency", tmp_path / "poor.csv", tmp_path / "good.csv", "--names", "poor", "good", "--positive", "pos",
             "--origin", "PHANTOM", "--output-figure", tmp_path / "f.png", "--output-csv", tmp_path / "n.csv"]  # fmt: skip
    figure.main(figure.parser().parse_args([str(word) for word in words]))
    values = read_csv(tmp_path / "n.csv").set_index(["name", "share"])
    assert list(values["patients"]) == [15, 30, 15, 30]
    assert (values["auroc_low"] < values["auroc"]).all()
    assert (values["auroc"] < values["auroc_high"]).all()
    assert values.loc[("good", 1.0), "difference_low"] > 0.2
    assert (values.loc["poor", ["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    gain = values.loc[("good", 1.0), "auroc"] - values.loc[("poor", 1.0), "auroc"]
    assert values.loc[("good", 1.0), "difference"] == pytest.approx(gain)
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_other_views_are_refused() -> None:
    table = predictions(1.0, 0)
    with pytest.raises(UserError, match="second predicts other views than first"):
        figure.numbers([table, table[table["view_id"] != "v3"]], ["first", "second"], "pos")
