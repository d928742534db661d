"""The audit's figures hold what they claim."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from workflow_scripts.audit import draw_votes as audit_figure
from workflow_scripts.audit import figures as audit_figures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
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
        "--output-figure",
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
    write_csv(read_csv(tmp_path / "index.csv")[1:], tmp_path / "index.csv")
    with pytest.raises(
        UserError, match=r"votes.csv and .*index.csv are not of the same views: only one of them has a#1"
    ):
        audit_figure.main(audit_figure.parser().parse_args(flags))
