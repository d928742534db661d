"""Forest plots: the marks of a table, the axis that holds them, and the figure."""

import math

import pandas as pd
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.tables.forest import extent, forest_figure, marks, share_labels

NAN = math.nan


def numbers(**columns: object) -> pd.DataFrame:
    """A table of three networks and a baseline, the second the reference; `columns` replace its own."""
    values = {
        "name": ["$a$ & b", "UD", "c", "majority class"],
        "experiment": ["x-flipped", "ud-flipped", "y-flipped", "majority-flipped"],
        "label_policy": ["flipped"] * 4,
        "accuracy_mean": [80.0, 90.0, 85.0, 60.0],
        "accuracy_original_mean": [70.0, 75.0, 72.0, 60.0],
        "difference_mean": [-10.0, NAN, -5.0, -30.0],
        "difference_low": [-14.0, NAN, NAN, -250.0],
        "difference_high": [-6.0, NAN, NAN, 190.0],
        "p_corrected": [0.0004, NAN, NAN, 0.9],
    }
    return pd.DataFrame(values | columns)


def test_marks_of_a_table() -> None:
    shown = marks(numbers(paper_accuracy_mean=[81.0, 84.0, NAN, NAN]))
    assert [mark.is_reference for mark in shown] == [False, True, False, False]
    assert [mark.is_baseline for mark in shown] == [False, False, False, True]
    assert [mark.interval for mark in shown] == [
        "−10.00 (−14.00 to −6.00)", "reference", "−5.00", "−30.00 (−250.00 to 190.00)",
    ]  # fmt: skip
    assert [mark.accuracy for mark in shown] == [80, 90, 85, 60]
    assert shown[0].paper == -3
    assert math.isnan(shown[2].paper)
    # An interval from two runs may be wider than any difference can be.
    assert extent(shown) == 100
    assert extent(shown[:3]) == pytest.approx(14 * 1.08)
    assert math.isnan(marks(numbers())[0].paper)


def test_rows_with_labels_of_their_own_are_compared_on_the_original_ones() -> None:
    values = numbers(label_policy=["complete", "filtered", "flipped", "flipped"])
    assert not share_labels(values)
    assert [mark.accuracy for mark in marks(values)] == [70, 75, 72, 60]


def test_a_table_without_reference_is_refused() -> None:
    with pytest.raises(UserError, match="2 rows of the table have no difference_mean"):
        marks(numbers(difference_mean=[NAN, NAN, 1.0, 2.0]))


def test_the_figure_draws_intervals_and_hollow_marks() -> None:
    shown = marks(numbers(paper_accuracy_mean=[81.0, 84.0, NAN, NAN]))
    figure = forest_figure(shown, "Title", True, "PHANTOM")
    axis = figure.axes[0]
    drawn = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    assert [tuple(line.get_xydata()[0]) for line in drawn] == [(-3, 0)]
    bars = [
        line.get_xydata().tolist() for line in axis.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2
    ]
    assert bars == [[[-14, 0], [-6, 0]], [[-100, 3], [100, 3]]]
    arrows = [line.get_marker() for line in axis.lines if line.get_marker() in ("<", ">")]
    assert arrows == ["<", ">"]
    assert next(label.get_text() for label in axis.get_yticklabels()) == "$a$ & b   80.0"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["this study, corrected 95 % interval", "baseline without a network", "the paper"]
    assert "PHANTOM" in [text.get_text() for text in figure.texts]
