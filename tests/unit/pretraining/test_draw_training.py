"""The figure of the training runs holds what was measured."""

import json

import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.pretraining import draw_training as training_figure


def test_training_figure_draws_what_was_measured() -> None:
    runs = {
        "ud": [{"step": s, "loss_con": 5.0 - s, "loss_sup": None} for s in range(3)],
        "mix": [{"step": s, "loss_con": 4.0 - s, "loss_sup": 0.5} for s in range(3)],
        "diffusion": [{"step": s, "mse": 0.1} for s in range(3)],
    }
    figure = training_figure.training_figure(runs, "PHANTOM")
    drawn = {
        axis.get_title(loc="left"): {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
        for axis in figure.axes
        if axis.lines
    }
    assert drawn == {
        training_figure.CURVES["loss_con"][0]: {"ud": [5, 4, 3], "mix": [4, 3, 2]},
        training_figure.CURVES["loss_sup"][0]: {"mix": [0.5] * 3},
        training_figure.CURVES["mse"][0]: {"diffusion": [0.1] * 3},
    }
    assert "PHANTOM" in [text.get_text() for text in figure.texts]


def test_training_stage(tmp_path) -> None:
    rows = [{"step": s, "mse": 1 / s, "vb": 0.1, "lr": 1e-4} for s in range(1, 200)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--names", "diffusion", "--metrics", str(tmp_path / "m.jsonl"), "--output-figure", str(tmp_path / "t.png")]
    training_figure.main(training_figure.parser().parse_args(flags))
    first = (tmp_path / "t.png").read_bytes()
    training_figure.main(training_figure.parser().parse_args(flags))
    assert (tmp_path / "t.png").read_bytes() == first
    (tmp_path / "m.jsonl").write_text(json.dumps({"step": 1, "lr": 1}) + "\n")
    with pytest.raises(UserError, match="the metrics of diffusion hold none of loss_con"):
        training_figure.main(training_figure.parser().parse_args(flags))
    for damaged, said in {
        b'{"step": 1, "mse": 2}\n{"step": 2, "m': "not JSON, one object per line, or is damaged",
        b"\x80\xff": "not JSON, one object per line",
        b"null\n": "a line is no object",
        b'{"mse": 1}\n': "no key 'step'",
        b'{"step": 1, "mse": "x"}\n': "line 1, mse: 'x' is not a number",
    }.items():
        (tmp_path / "m.jsonl").write_bytes(damaged)
        with pytest.raises(UserError, match=f"m.jsonl.*{said}"):
            training_figure.main(training_figure.parser().parse_args(flags))
    with pytest.raises(UserError, match="one of each"):
        training_figure.main(training_figure.parser().parse_args([*flags, "--names", "a", "b"]))
