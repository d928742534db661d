"""Figures hold what they claim; figure 5's numbers on a network whose evidence is known."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from workflow_scripts.audit import draw_votes as audit_figure
from workflow_scripts.audit import figures as audit_figures
from workflow_scripts.core import figures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, sha256, write_csv, write_npy
from workflow_scripts.finetuning import explain
from workflow_scripts.finetuning.explanation import (
    heat_maps,
    heat_share,
    last_stage,
    positive_probability,
    spread_over_classes,
)
from workflow_scripts.networks.backbone import Classifier, create_backbone, save_weights
from workflow_scripts.pretraining import draw_training as training_figure
from workflow_scripts.study.manifest import read_manifest


def heights(figure, label: str) -> list[float]:
    """Heights of the bars of one label."""
    axis = figure.axes[0]
    (container,) = (bars for bars in axis.containers if bars.get_label() == label)
    return [bar.get_height() for bar in container]


def texts(figure) -> str:
    """Everything written on a figure outside its axes' labels."""
    return " ".join([text.get_text() for text in figure.texts] + [axis.get_title(loc="left") for axis in figure.axes])


def test_audit_figure_counts_right_and_wrong_labels() -> None:
    votes = np.array([0, 1, 2, 2, 4])
    wrong = np.array([False, False, True, False, True])
    figure = audit_figures.votes_figure(votes, 4, wrong, True, ["headline"], "PHANTOM")
    assert heights(figure, "label is wrong (2 of 5 views)") == pytest.approx([40, 40, 20, 20])
    assert heights(figure, "label is right") == pytest.approx([40, 20, 0, 0])
    assert texts(figure).count("PHANTOM") == 2
    assert "headline" in texts(figure)
    # Four evaluations cannot be compared with the paper's sixteen.
    assert not any("paper" in bars.get_label() for bars in figure.axes[0].containers)


def test_audit_figure_beside_the_paper() -> None:
    figure = audit_figures.votes_figure(np.array([16, 3]), 16, None, True, ["x"], "")
    assert heights(figure, "this study (2 views)") == [100] * 3 + [50] * 13
    assert heights(figure, "the paper (880 views)")[-1] == pytest.approx(100 * 72 / 880)
    assert "PHANTOM" not in texts(figure)


def audit(tmp_path) -> list[str]:
    """Votes on four frames of two views, two labels wrong, one frame half flagged."""
    frames = ["a", "b", "c", "d"]
    rows = [(f"{frame}#{v}", frame) for frame in frames for v in "12"]
    index = pd.DataFrame(rows, columns=["view_id", "image_id"]).assign(label="neg")
    flags = [1, 1, 1, 0, 0, 0, 0, 0]
    votes = index[["view_id", "label"]].assign(votes=[2 * flag for flag in flags], evaluations=2, suspicious=flags)
    write_csv(index, tmp_path / "index.csv")
    write_csv(votes, tmp_path / "votes.csv")
    truth = pd.DataFrame({"image_id": frames, "label": "neg", "truth": ["pos", "neg", "pos", "neg"]})
    write_csv(truth, tmp_path / "manifest.csv")
    return [
        "--votes",
        str(tmp_path / "votes.csv"),
        "--index",
        str(tmp_path / "index.csv"),
        "--output",
        str(tmp_path / "f.png"),
    ]


def test_audit_stage(tmp_path) -> None:
    flags = audit(tmp_path)
    audit_figure.main(audit_figure.parser().parse_args([*flags, "--manifest", str(tmp_path / "manifest.csv")]))
    assert Image.open(tmp_path / "f.png").size[0] > 500
    votes = read_csv(tmp_path / "votes.csv").assign(image_id=list("aabbccdd"))
    wrong = audit_figure.wrong_labels(votes, tmp_path / "manifest.csv")
    assert wrong.tolist() == [True, True, False, False, True, True, False, False]
    assert audit_figure.headline(votes, wrong) == [
        "3 of 8 views are suspicious (3 of 8 neg)",
        "They lie on 2 frames; 1 of these have views that are not suspicious",
        "Planted errors: 4 views; found with precision 0.67, recall 0.50",
    ]
    (tmp_path / "key").write_text("a secret of sixteen bytes or more")
    images = [row["image_id"] for row in read_manifest(tmp_path / "manifest.csv", tmp_path / "key")]
    keyed = votes.assign(image_id=np.repeat(images, 2))
    assert audit_figure.wrong_labels(keyed, tmp_path / "manifest.csv", tmp_path / "key").tolist() == wrong.tolist()
    write_csv(read_csv(tmp_path / "manifest.csv").assign(truth=""), tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="column truth is missing or empty"):
        audit_figure.main(audit_figure.parser().parse_args([*flags, "--manifest", str(tmp_path / "manifest.csv")]))


def test_training_figure_draws_what_was_measured() -> None:
    runs = {
        "ud": [{"step": s, "loss_con": 5.0 - s, "loss_sup": None} for s in range(3)],
        "mix": [{"step": s, "loss_con": 4.0 - s, "loss_sup": 0.5} for s in range(3)],
        "diffusion": [{"step": s, "mse": 0.1} for s in range(3)],
    }
    figure = figures.training_figure(runs, "PHANTOM")
    drawn = {
        axis.get_title(loc="left"): {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
        for axis in figure.axes
        if axis.lines
    }
    assert drawn == {
        figures.CURVES["loss_con"][0]: {"ud": [5, 4, 3], "mix": [4, 3, 2]},
        figures.CURVES["loss_sup"][0]: {"mix": [0.5] * 3},
        figures.CURVES["mse"][0]: {"diffusion": [0.1] * 3},
    }
    assert "PHANTOM" in texts(figure)


def test_training_stage(tmp_path) -> None:
    rows = [{"step": s, "mse": 1 / s, "vb": 0.1, "lr": 1e-4} for s in range(1, 200)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--names", "diffusion", "--metrics", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "t.png")]
    training_figure.main(training_figure.parser().parse_args(flags))
    first = (tmp_path / "t.png").read_bytes()
    training_figure.main(training_figure.parser().parse_args(flags))
    assert (tmp_path / "t.png").read_bytes() == first
    (tmp_path / "m.jsonl").write_text(json.dumps({"step": 1, "lr": 1}) + "\n")
    with pytest.raises(UserError, match="the metrics of diffusion hold none of loss_con"):
        training_figure.main(training_figure.parser().parse_args(flags))
    with pytest.raises(UserError, match="one of each"):
        training_figure.main(training_figure.parser().parse_args([*flags, "--names", "a", "b"]))


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


def test_last_stage_of_timm_networks() -> None:
    backbone = create_backbone("resnet18")
    assert last_stage(backbone) is backbone.layer4
    with pytest.raises(UserError, match="names no stages"):
        last_stage(nn.Linear(1, 1))


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
        "--output": "f.png",
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


def test_explain_refuses_classifiers_that_saw_the_fold(tmp_path, study: list[str]) -> None:
    other = [*study, "--fold", "1"]
    with pytest.raises(UserError, match="its fold is 0, not 1"):
        explain.main(explain.parser().parse_args(other))
    write_csv(read_csv(tmp_path / "folds.csv").assign(fold=[0, 0, 0, 0, 1, 1]), tmp_path / "folds.csv")
    with pytest.raises(UserError, match="trained with other folds"):
        explain.main(explain.parser().parse_args(study))
    with pytest.raises(UserError, match=r"no view of .* lies in fold 7"):
        explain.main(explain.parser().parse_args([*study, "--fold", "7"]))
