"""The benchmark of batch norm's shift: what re-estimating changes, and how its rows are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.batch_norm import VARIANTS, compared, re_estimated
from tests.textures import textures
from workflow_scripts.networks.backbone import normalise
from workflow_scripts.networks.cross_validation import initial_classifier


def test_re_estimated_statistics_are_those_of_the_views_and_no_weight_changes():
    network = initial_classifier("test_resnet", "scratch", None, 0, 0).eval()
    views = torch.from_numpy(textures(24, 32))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changed = re_estimated(network, views)
    assert not changed.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in changed.named_parameters():
        assert torch.equal(value, before[name]), name
    first = next(module for module in changed.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        changed(normalise(views))
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


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
