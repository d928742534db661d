"""Figure 5: its numbers on a network whose evidence is known, and the stage."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, sha256, write_csv, write_npy
from workflow_scripts.finetuning import explain
from workflow_scripts.finetuning.explanation import (
    explained_stage,
    heat_maps,
    heat_share,
    positive_probability,
    spread_over_classes,
)
from workflow_scripts.finetuning.marker_heat import extra_heat, moved_heat
from workflow_scripts.networks.backbone import Classifier, create_backbone, save_weights


class Bright(nn.Module):
    """A classifier whose positive logit is the mean of its (one) feature map, and that map is the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.stage.weight, 1 / 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = self.stage(images).relu().mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def test_heat_lies_where_the_evidence_is() -> None:
    images = torch.zeros(5, 3, 16, 16)
    images[:, :, 2:6, 3:9] = 1
    model = Bright()
    maps = heat_maps(model, model.stage, images, target=1, batch_size=2)
    assert maps.shape == (5, 16, 16)
    mask = images[:, 0].numpy() > 0
    np.testing.assert_allclose(heat_share(maps, mask), 1, atol=1e-4)
    # The same map speaks against the other class.
    assert heat_maps(model, model.stage, images, target=0).max() < 1e-3
    np.testing.assert_allclose(
        positive_probability(model, images), torch.sigmoid(torch.full((5,), 2 * 24 / 256)), rtol=1e-5
    )


def test_heat_share_by_hand() -> None:
    maps = np.array([[[1.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    mask = np.array([[[True, False], [True, False]]] * 2)
    np.testing.assert_allclose(heat_share(maps, mask), [0.75, np.nan])


def test_views_alternate_between_classes() -> None:
    labels = np.array(["neg"] * 6 + ["pos"] * 2)
    assert spread_over_classes(labels, 2).tolist() == [6, 0]
    assert spread_over_classes(labels, 4).tolist() == [6, 0, 7, 5]
    assert spread_over_classes(labels, 1).tolist() == [6]
    assert len(set(spread_over_classes(labels, 8))) == 6


def test_the_explained_stage_has_a_map_of_at_least_7_by_7() -> None:
    backbone = create_backbone("resnet18")
    chosen = {
        256: backbone.layer4,
        224: backbone.layer4,
        223: backbone.layer3,
        64: backbone.layer2,
        32: backbone.layer1,
    }
    for size, stage in chosen.items():
        assert explained_stage(backbone, size) is stage
    stages = [backbone.get_submodule(stage["module"]) for stage in backbone.feature_info]
    assert explained_stage(backbone, 8) is stages[0]
    with pytest.raises(UserError, match="names no stages"):
        explained_stage(nn.Linear(1, 1), 64)


def test_arms_differ_by_a_number_or_are_said_not_to() -> None:
    views = [f"v{i}" for i in range(20)]
    patients = pd.Series([f"p{i // 2}" for i in range(20)], index=views)
    noise = np.random.default_rng(0).normal(0, 0.01, 20)

    def shares(moved: np.ndarray | float) -> pd.DataFrame:
        arms = {"full": noise, "plain": moved, "none": np.nan}
        return pd.concat(
            pd.DataFrame({"arm": arm, "view_id": views, "heat_before": 0.1, "heat_on_markers": 0.1 + extra})
            for arm, extra in arms.items()
        )

    moved = moved_heat(shares(0.05))
    extra = extra_heat(moved, patients, "plain", "full")
    assert (extra.views, extra.patients) == (20, 10)
    assert extra.difference == pytest.approx(100 * (0.05 - noise.mean()))
    assert extra.low < extra.difference < extra.high
    assert "plain moves 5" in explain.difference_sentence("full", "plain", extra)
    assert "more heat onto markers than full (95 % over 10 patients +" in explain.difference_sentence(
        "full", "plain", extra
    )
    same = extra_heat(moved_heat(shares(noise[::-1])), patients, "plain", "full")
    assert "plain and full do not differ beyond chance" in explain.difference_sentence("full", "plain", same)
    assert extra_heat(moved, patients, "none", "full") is None
    assert "no view has heat in both" in explain.difference_sentence("full", "none", None)


@pytest.fixture
def study(tmp_path) -> list[str]:
    """Six views of three patients, two untrained arms; flags of the stage."""
    draw = np.random.default_rng(0)
    index = pd.DataFrame(
        {
            "view_id": [f"{i}#v" for i in range(6)],
            "patient_id": [f"{i // 2:02d}" for i in range(6)],
            "label": ["neg", "pos"] * 3,
        }
    )
    write_npy(draw.integers(0, 120, (6, 64, 64), dtype=np.uint8), tmp_path / "views.npy")
    write_csv(index, tmp_path / "index.csv")
    write_csv(index[["view_id", "patient_id"]].assign(fold=[0, 0, 1, 1, 0, 0]), tmp_path / "folds.csv")
    parameters = {
        "backbone": "resnet18",
        "classes": ["neg", "pos"],
        "fold": 0,
        "inputs": {"folds": sha256(tmp_path / "folds.csv")},
    }
    for i, arm in enumerate(("full", "plain")):
        save_weights(
            Classifier(create_backbone("resnet18", i), i).state_dict(), parameters, tmp_path / f"{arm}.safetensors"
        )
    paths = {
        "--views": "views.npy",
        "--index": "index.csv",
        "--folds": "folds.csv",
        "--output-figure": "f.png",
        "--output-shares": "f.csv",
    }
    flags = [word for flag, name in paths.items() for word in (flag, str(tmp_path / name))]
    weights = [str(tmp_path / f"{arm}.safetensors") for arm in ("full", "plain")]
    words = [
        "--fold",
        "0",
        "--arms",
        "full",
        "plain",
        "--classes",
        "neg",
        "pos",
        "--device",
        "cpu",
        "--weights",
        *weights,
    ]
    return [*flags, *words]


def test_explain_stage(tmp_path, study: list[str]) -> None:
    explain.main(explain.parser().parse_args(study))
    shares = read_csv(tmp_path / "f.csv")
    assert shares["view_id"].tolist() == ["0#v", "1#v", "4#v", "5#v"] * 2
    assert shares["arm"].tolist() == ["full"] * 4 + ["plain"] * 4
    assert shares["marker_area"].between(0.001, 0.2).all()
    for column in ("probability_clean", "probability_marked", "heat_before", "heat_on_markers"):
        assert shares[column].dropna().between(0, 1).all()
    assert (shares["probability_clean"] != shares["probability_marked"]).any()
    assert Image.open(tmp_path / "f.png").size[1] > 500
    assert "heat_in_parenchyma" not in shares


def test_explain_stage_with_masks(tmp_path, study: list[str]) -> None:
    masks = np.zeros((6, 64, 64), dtype=np.uint8)
    masks[:, 8:56, 8:56] = 255
    write_npy(masks, tmp_path / "masks.npy")
    explain.main(explain.parser().parse_args([*study, "--masks", str(tmp_path / "masks.npy")]))
    inside = read_csv(tmp_path / "f.csv")["heat_in_parenchyma"].dropna()
    assert len(inside)
    assert inside.between(0, 1).all()
    write_npy(masks[:5], tmp_path / "masks.npy")
    with pytest.raises(UserError, match="one mask per labelled view"):
        explain.main(explain.parser().parse_args([*study, "--masks", str(tmp_path / "masks.npy")]))


def test_explain_refuses_classifiers_that_saw_the_fold(tmp_path, study: list[str]) -> None:
    other = [*study, "--fold", "1"]
    with pytest.raises(UserError, match="its fold is 0, not 1"):
        explain.main(explain.parser().parse_args(other))
    write_csv(read_csv(tmp_path / "folds.csv").assign(fold=[0, 0, 0, 0, 1, 1]), tmp_path / "folds.csv")
    with pytest.raises(UserError, match="trained with other folds"):
        explain.main(explain.parser().parse_args(study))
    with pytest.raises(UserError, match=r"no view of .* is in fold 7"):
        explain.main(explain.parser().parse_args([*study, "--fold", "7"]))
