"""How far weights moved, and the last losses."""

import numpy as np
import torch

from workflow_scripts.finetuning.movement import backbone_weights, last_quarters, weights_moved
from workflow_scripts.networks.backbone import Classifier, create_backbone


def test_the_change_is_relative_and_of_the_backbone_alone():
    model = Classifier(create_backbone("test_resnet"), 0)
    before = backbone_weights(model)
    assert weights_moved(before, model.state_dict()) == 0
    with torch.no_grad():
        model.head.weight += 1
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean += 5
        assert weights_moved(before, model.state_dict()) == 0
        for parameter in model.backbone.parameters():
            parameter *= 1.25
    assert abs(weights_moved(before, model.state_dict()) - 0.25) < 1e-6


def test_quarters_leave_out_views_that_were_not_drawn():
    losses = np.repeat(np.arange(8.0, 0, -1)[:, None], 3, axis=1)
    losses[7, 0] = np.nan
    assert last_quarters(losses) == (3.5, 1.6)
    assert last_quarters(losses[:3]) == (7.0, 6.0)
    before, last = last_quarters(losses[:1])
    assert np.isnan(before)
    assert last == 8
