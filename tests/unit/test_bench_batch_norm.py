"""The benchmark of batch norm's shift: how its rows are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.batch_norm import VARIANTS, compared


def test_a_network_that_calls_all_the_same_is_counted_and_differences_are_to_the_first_variant():
    patients = [f"p{i:02}" for i in range(40)]
    truth = np.arange(40) % 2
    index = pd.DataFrame(
        {"view_id": patients, "image_id": patients, "patient_id": patients, "side": "", "view": "full"}
    )
    index["label"] = np.where(truth, "b", "a")
    right, high = np.where(truth, 0.9, 0.1), np.where(truth, 0.9, 0.6)
    probabilities = {("scratch", 0, fold): np.stack([high, right, high]) for fold in (0, 1)}
    rows = compared(probabilities, index, ["p00"], ["a", "b"])
    assert [row["variant"] for row in rows] == list(VARIANTS)
    assert [row["one_sided"] for row in rows] == [2, 0, 2]
    assert [row["patients"] for row in rows] == [39, 39, 39]
    assert [row["balanced"] for row in rows] == pytest.approx([50, 100, 50])
    assert [row["auroc_difference"] for row in rows] == [0, 0, 0]
    assert rows[1]["balanced_difference_low"] == pytest.approx(50)
