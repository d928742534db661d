"""Reliability diagrams: their points, counts, errors with intervals, and the stage."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from tests.unit.finetuning.test_metrics import CLASSES, predictions
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import as_pixels
from workflow_scripts.core.files import write_csv
from workflow_scripts.tables import draw_calibration as calibration_figure
from workflow_scripts.tables.draw_calibration import panel, reliability_figure


def sample(sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities of 100 patients' views, made too sure by `sharpness`."""
    draw = np.random.default_rng(0)
    probability = draw.random(400)
    truth = draw.random(400) < probability
    odds = (probability / (1 - probability)) ** sharpness
    return odds / (1 + odds), truth, np.arange(400) // 4


def test_a_panel_agrees_with_scikit_learn() -> None:
    probability, truth, patients = sample(2.0)
    shown = panel("x", probability, truth, patients)
    observed, predicted = calibration_curve(truth, probability, n_bins=10)
    np.testing.assert_allclose(shown.points.observed, observed)
    np.testing.assert_allclose(shown.points.predicted, predicted)
    assert shown.points.count.sum() == 400
    assert shown.brier[0] == pytest.approx(sk.brier_score_loss(truth, probability))
    assert shown.ece[0] == pytest.approx(np.average(abs(observed - predicted), weights=shown.points.count))
    for value, low, high in (shown.ece, shown.brier):
        assert low < value < high


def test_overconfidence_is_seen() -> None:
    calibrated, overconfident = panel("a", *sample()), panel("b", *sample(4.0))
    assert overconfident.ece[1] > calibrated.ece[2]


def test_the_figure_says_counts_and_errors() -> None:
    panels = [panel(f"network {i}", *sample(1.0 + i)) for i in range(5)]
    figure = reliability_figure(panels, "pos", "headline", "PHANTOM")
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    for shown in panels:
        assert shown.name in titles
        value, low, high = shown.ece
        assert any(f"ECE {value:.3f} ({low:.3f} to {high:.3f})\nBrier" in text for text in texts)
        assert {str(count) for count in shown.points.count} <= set(texts)
    assert "PHANTOM" in [text.get_text() for text in figure.texts]
    # A bar stands over the bin of its point.
    for diagram, counts in ((figure.axes[0], figure.axes[4]),):
        points = diagram.collections[-1].get_offsets()[:, 0]
        for x, bar in zip(points, counts.patches, strict=True):
            assert bar.get_x() - 0.01 <= x <= bar.get_x() + bar.get_width() + 0.01


def test_every_diagram_has_its_axis_and_the_origin_touches_no_label() -> None:
    shown = panel("x", *sample())
    figure = reliability_figure([shown] * 5, "pos", "headline", "PHANTOM")
    as_pixels(figure)
    counted = [axis for axis in figure.axes if axis.patches]
    assert [axis.get_xlabel() for axis in counted] == ["probability of pos"] * 5
    assert all(axis.xaxis.get_ticklabels()[0].get_visible() for axis in counted)
    corner = figure.texts[-1].get_window_extent()
    assert not any(corner.overlaps(axis.get_tightbbox()) for axis in counted)


def test_edges_of_bins_and_a_single_bin() -> None:
    probability = np.array([0.0, 0.1, 0.2, 1.0])
    shown = panel("x", probability, np.array([False, False, True, True]), np.arange(4))
    figure = reliability_figure([shown], "pos", "", "")
    bars = [round(10 * bar.get_x()) for bar in figure.axes[1].patches]
    assert bars == [0, 1, 9]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [2, 1, 1]
    constant = panel("majority", np.full(8, 0.2), np.arange(8) < 2, np.arange(8))
    assert constant.points.count.tolist() == [8]
    assert constant.ece[0] == pytest.approx(0.05)
    reliability_figure([constant], "pos", "", "")


def make(tmp_path, experiment: str = "ud-flipped"):
    """Run the stage on one experiment of two seeds; the path of the figure."""
    files = []
    for seed, part in predictions(patients=24).groupby("seed"):
        files.append(str(tmp_path / f"{seed}.csv"))
        write_csv(part, files[-1])
    rows = [{"name": "UD", "experiment": experiment, "init": "ud"}]
    words = ["--rows", json.dumps(rows), "--experiments", "ud-flipped", "--predictions", *files]
    words += ["--classes", *CLASSES, "--output-figure", str(tmp_path / "out.png")]
    calibration_figure.main(calibration_figure.parser().parse_args(words))
    return tmp_path / "out.png"


def test_stage_draws_the_same_bytes_again(tmp_path) -> None:
    path = make(tmp_path)
    first = path.read_bytes()
    with Image.open(path) as image:
        assert min(image.size) > 400
    assert make(tmp_path).read_bytes() == first


def test_stage_refuses_an_unknown_experiment(tmp_path) -> None:
    with pytest.raises(UserError, match="no predictions for the experiment x-flipped"):
        make(tmp_path, "x-flipped")
