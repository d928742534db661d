"""Phantoms: pure functions of seed and ids, classes apart by texture and not by brightness, planted labels counted."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows
from workflow_scripts.data import draw_phantoms as phantoms
from workflow_scripts.data import make_phantom_manifest, phantom
from workflow_scripts.study.manifest import own_ids

ORGANS, CLASSES = ("testicle", "thyroid"), ("homogeneous", "inhomogeneous")


def frame(image_id: str, patient: str, inhomogeneous: bool, seed: int = 0, thyroid: bool = False) -> np.ndarray:
    return phantom.draw_frame(seed, image_id, patient, "testicle", inhomogeneous, thyroid)


def views_of(image: np.ndarray) -> list[np.ndarray]:
    return [image[top : top + 300, left : left + 300] for top, left in phantom.CORNERS]


def test_a_frame_is_a_function_of_seed_and_ids():
    first = frame("a", "p", True)
    np.testing.assert_array_equal(first, frame("a", "p", True))
    for other in (frame("b", "p", True), frame("a", "q", True), frame("a", "p", True, seed=1), frame("a", "p", False)):
        assert (first != other).mean() > 0.05


def test_text_is_burnt_in_outside_the_boxes_only():
    image = frame("a", "p", False)
    assert image.shape == phantom.FRAME
    assert image.dtype == np.uint8
    outside = image.copy()
    for top, left in phantom.CORNERS:
        outside[top : top + 300, left : left + 300] = 0
    assert (outside[:120] > 100).any()
    assert not (outside[130:430, 166:] > 0).any()


def test_texture_tells_the_classes_and_brightness_does_not():
    truths, means, spreads = [], [], []
    for i in range(60):
        for view in views_of(frame(f"a{i}", f"p{i}", i % 2 == 1)):
            truths.append(i % 2)
            means.append(view.mean())
            spreads.append(gaussian_filter(view.astype(float), 6)[105:195, 105:195].std())
    assert roc_auc_score(truths, spreads) > 0.9
    assert 0.35 < roc_auc_score(truths, means) < 0.65


def test_the_second_organ_looks_otherwise():
    testicle, thyroid = views_of(frame("a", "p", False))[0], views_of(frame("a", "p", False, thyroid=True))[0]
    assert abs(testicle[150].astype(int) - thyroid[150].astype(int)).mean() > 20


@pytest.mark.parametrize(
    ("patients", "share", "wrong"),
    [(48, 0.2, 0.08), (12, 0.34, 0.1), (30, 0.5, 0.0), (10, 0.9, 0.1), (10, 0.05, 0.5), (3, 1.0, 1.0)],
)
def test_manifests_hold_exactly_the_planned_labels(patients: int, share: float, wrong: float):
    rows = phantom.manifest_rows(3, patients, 5, 7, share, wrong, ORGANS, CLASSES)
    labelled = [row for row in rows if row["label"]]
    assert len(labelled) == 2 * patients
    assert len(rows) == 2 * patients + 12
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert sum(row["truth"] == CLASSES[1] for row in labelled) == round(share * 2 * patients)
    assert sum(row["truth"] != row["label"] for row in labelled) == round(wrong * 2 * patients)


def study(tmp_path, **arguments):
    make_phantom_manifest.main(
        make_phantom_manifest.parser().parse_args(
            ["--labelled-patients", "2", "--unlabelled-testicles", "1", "--thyroids", "1",
             "--positive-share", "0.5", "--output-manifest", str(tmp_path / "m.csv")]
        )
    )  # fmt: skip
    return phantoms.parser().parse_args(
        ["--manifest", str(tmp_path / "m.csv"), "--root", str(tmp_path / "root"), "--target-organ", "testicle",
         "--positive", "inhomogeneous", "--output-frames", str(tmp_path / "frames.csv"),
         *(f"--{k}={v}" for k, v in arguments.items())]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--positive-share", "1.5"), ("--wrong-labels", "-0.1"), ("--labelled-patients", "0"), ("--thyroids", "-1")],
)
def test_a_study_that_cannot_be_is_refused_with_its_flag(tmp_path, flag: str, value: str):
    words = [f"{flag}={value}", "--output-manifest", str(tmp_path / "m.csv")]
    with pytest.raises(UserError, match=f"{flag} {value}"):
        make_phantom_manifest.main(make_phantom_manifest.parser().parse_args(words))
    assert not (tmp_path / "m.csv").exists()


def test_drawing_in_parallel_draws_the_same_files_and_marks_them(tmp_path):
    phantoms.main(study(tmp_path, threads=1))
    first = read_rows(tmp_path / "frames.csv")
    phantoms.main(study(tmp_path, threads=2))
    assert read_rows(tmp_path / "frames.csv") == first
    with Image.open(next((tmp_path / "root").rglob("*.png"))) as image:
        assert image.info["Comment"].startswith("PHANTOM")


def test_a_frame_that_is_no_phantom_is_never_overwritten(tmp_path):
    arguments = study(tmp_path)
    target = tmp_path / "root" / "testicle" / "P001_left.png"
    target.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(target)
    before = target.read_bytes()
    with pytest.raises(UserError, match=r"P001_left.*is not a phantom"):
        phantoms.main(arguments)
    assert target.read_bytes() == before
    assert not (tmp_path / "frames.csv").exists()


def test_with_the_key_the_list_and_the_messages_hold_no_id_and_the_frames_are_the_same(tmp_path):
    phantoms.main(study(tmp_path, threads=1))
    plain = read_rows(tmp_path / "frames.csv")
    (tmp_path / "key").write_text("a secret of sixteen bytes or more")
    arguments = study(tmp_path, **{"patient-key": str(tmp_path / "key")})
    phantoms.main(arguments)
    keyed = read_rows(tmp_path / "frames.csv")
    assert [row["sha256"] for row in keyed] == [row["sha256"] for row in plain]
    back = own_ids(arguments.manifest, tmp_path / "key")
    assert [back[row["image_id"]] for row in keyed] == [row["image_id"] for row in plain]
    assert not {row["image_id"] for row in keyed} & {row["image_id"] for row in plain}
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "root" / "testicle" / "P001_left.png")
    with pytest.raises(UserError, match="is not a phantom") as caught:
        phantoms.main(arguments)
    assert "P001" not in str(caught.value)


def test_two_rows_with_one_path_are_refused(tmp_path):
    arguments = study(tmp_path)
    text = arguments.manifest.read_text()
    arguments.manifest.write_text(text.replace("testicle/P001_right.png", "testicle/P001_left.png"))
    with pytest.raises(UserError, match="P001_left: 2 rows have its path"):
        phantoms.main(arguments)
