"""Canaries: a generator that repeats its training views returns their codes, and one that does not returns none."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.diffusion.test_training import TINY, command
from tests.unit.privacy.test_copies import textured
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import train_diffusion
from workflow_scripts.privacy import audit_canaries, canaries, plant_canaries
from workflow_scripts.privacy.canaries import chances, choose_patients, draw_canaries, exact_interval, marked
from workflow_scripts.runtime.cli import run

SIZE, PATIENTS, COUNT = 64, 40, 20


@pytest.fixture(autouse=True)
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "REFERENCES", 299)


def planted(seed: int) -> tuple[np.ndarray, canaries.Canaries, np.ndarray]:
    """Views with COUNT canaries planted, the codes planted and kept out, and the marked rows."""
    views, patients = textured(seed, PATIENTS), np.repeat(np.arange(PATIENTS).astype(str), 2)
    marks, rows = draw_canaries(seed, 2 * COUNT, SIZE), choose_patients(patients, COUNT, seed)
    for row, code, place in zip(rows, marks.codes, marks.places, strict=False):
        views[row] = marked(views[row], code, place)
    return views, marks, rows


def sampled(views: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A memorising generator: each training view several times, mirrored or not, under noise."""
    images = np.repeat(views, 2, axis=0).astype(float)
    images[::2] = images[::2, :, ::-1]
    return np.clip(images + generator.normal(0, 12, images.shape), 0, 255).astype(np.uint8)


def returned(images: np.ndarray, marks: canaries.Canaries, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which planted codes and which kept out ones count as returned at 1 % false alarms."""
    _, chance = chances(images, marks, seed)
    return chance[:COUNT] <= 0.01, chance[COUNT:] <= 0.01


def test_a_generator_that_memorises_returns_its_canaries_and_a_sound_one_none() -> None:
    views, marks, _ = planted(1)
    found, alarms = returned(sampled(views, np.random.default_rng(1)), marks, 1)
    assert found.mean() >= 0.95
    # Of 20 codes that nobody planted, or of 40, more than two above 1 % have a chance of 0.1 % or 0.8 %.
    assert alarms.sum() <= 2
    assert np.sum(returned(textured(11, PATIENTS), marks, 1)) <= 2


def test_the_chance_of_a_code_that_was_not_planted_is_uniform() -> None:
    marks = draw_canaries(3, 60, 32)
    _, chance = chances(textured(5, 10)[:, ::2, ::2], marks, 3)
    assert chance.min() >= 1 / 300
    assert 0.35 < chance.mean() < 0.65
    assert (chance <= 0.1).mean() < 0.25


def test_a_mark_changes_its_place_alone_and_patients_have_one_each() -> None:
    views, marks, rows = planted(4)
    clean = textured(4, PATIENTS)
    changed = (views != clean).any(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(changed), np.sort(rows))
    assert len(set(rows // 2)) == COUNT
    assert len({code.tobytes() for code in marks.codes}) == 2 * COUNT
    for row, (top, left) in zip(rows, marks.places, strict=False):
        differs = views[row] != clean[row]
        differs[top : top + canaries.CODE, left : left + canaries.CODE] = False
        assert not differs.any()


@pytest.mark.parametrize("size", [24, 48, 100])
def test_marks_are_found_at_any_size(size: int) -> None:
    marks = draw_canaries(0, 4, size)
    view = np.full((size, size), 100, dtype=np.uint8)
    images = np.stack([marked(view, code, place) for code, place in zip(marks.codes[:2], marks.places, strict=False)])
    scores, chance = chances(images, marks, 0)
    assert (scores[:2] > 0.9).all()
    assert (chance[:2] == 1 / 300).all()
    assert (scores[2:] < 0.75).all()


def test_intervals_of_shares_are_exact() -> None:
    assert exact_interval(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert exact_interval(20, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


def write_study(folder: Path) -> list[str]:
    views = textured(1, 8)[:, ::2, ::2]
    np.save(folder / "labelled.npy", views)
    patients = [f"p{number // 2}" for number in range(len(views))]
    index = pd.DataFrame({"view_id": [f"v{n}" for n in range(len(views))], "patient_id": patients, "label": "a"})
    index.to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"patient_id": ["p0"]}).to_csv(folder / "holdout.csv", index=False)
    return [f"--index={folder}/labelled.csv", f"--holdout={folder}/holdout.csv"]


def plant(folder: Path, study: list[str], count: int = 3) -> None:
    words = [*study, f"--views={folder}/labelled.npy", f"--canaries={count}", "--seed=7"]
    words += [f"--output-views={folder}/marked.npy", f"--output-planted={folder}/planted.csv"]
    plant_canaries.main(plant_canaries.parser().parse_args(words))


def test_stages_follow_the_canaries_over_the_snapshots(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    plant(tmp_path, study)
    table = pd.read_csv(tmp_path / "planted.csv")
    assert list(table["planted"]) == [1] * 3 + [0] * 3
    assert set(table["patient_id"][:3]) <= {f"p{number}" for number in range(1, 8)}  # p0 is held out
    marked_views = [*study, f"--views={tmp_path}/marked.npy"]
    words = [*marked_views, f"--output-model={tmp_path}/model", f"--output-metrics={tmp_path}/metrics.jsonl"]
    words += [f"--work-dir={tmp_path}/work", "--snapshot-every=1", "--device=cpu"]
    settings = {**TINY, "steps": 2, "attention_resolutions": [16], "batch_size": 4}
    run(train_diffusion.main, train_diffusion.parser(), [*words, *command(settings)])
    measures = {"step": [1, 2], "excess": 0, "excess_low": -1, "held_out_loss": [1, 2], "fid": 0}
    pd.DataFrame(measures).to_csv(tmp_path / "monitor.csv", index=False)
    words = [*marked_views, f"--model={tmp_path}/model", f"--planted={tmp_path}/planted.csv", "--images=8", "--steps=2"]
    words += ["--seed=7", "--select=best", f"--measures={tmp_path}/monitor.csv", f"--work-dir={tmp_path}/audit"]
    words += [f"--output-{name}={tmp_path}/canaries.{kind}" for name, kind in OUTPUTS.items()]
    run(audit_canaries.main, audit_canaries.parser(), [*words, "--device=cpu", "--origin=PHANTOM"])
    rows = pd.read_csv(tmp_path / "canaries.csv")
    assert len(rows) == 2 * 6
    assert set(rows["step"]) == {1, 2}
    np.testing.assert_allclose(rows["exposure"], -np.log2(rows["chance"]))
    summary = json.loads((tmp_path / "canaries.json").read_text())
    assert [snapshot["planted"]["codes"] for snapshot in summary["snapshots"]] == [3, 3]
    assert summary["chosen"]["step"] == 1
    assert summary["training_views"] == 14
    page = (tmp_path / "canaries.html").read_text()
    assert "PHANTOM" in page
    assert "chooses step 1" in page


OUTPUTS = {"canaries": "csv", "summary": "json", "page": "html"}


def test_the_summary_names_the_first_snapshot_that_surely_returns_a_code() -> None:
    rows = [
        {"step": step, "planted": planted, "score": score, "chance": chance, "exposure": -np.log2(chance),
         "returned": int(chance <= 0.01)}
        for step, planted, score, chance in (
            (10, 1, 0.5, 0.008), (10, 0, 0.6, 0.5), (20, 1, 0.9, 1 / 300), (20, 0, 0.4, 0.7), (30, 1, 0.9, 1 / 300),
            (30, 0, 0.95, 1 / 300),
        )
    ]  # fmt: skip
    summary = audit_canaries.summarise(pd.DataFrame(rows))
    assert summary["first_return"] == 20
    assert [snapshot["planted"]["returned"] for snapshot in summary["snapshots"]] == [1, 1, 1]
    assert [snapshot["surely_returned"] for snapshot in summary["snapshots"]] == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: plant(folder, write_study(folder), 8), r"privacy.canaries = 8.*7 patients"),
        (lambda folder: draw_canaries(0, 1, 16), r"at least 24 pixels, these have 16"),
    ],
)
def test_what_cannot_be_planted_is_refused(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        change(tmp_path)
