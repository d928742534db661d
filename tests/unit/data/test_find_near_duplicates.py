"""Near-duplicates: the same picture is found however it was stored, another picture is not, and nothing blows up."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from tests.shared import SHARED, needs_real
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_rows, write_rows
from workflow_scripts.data import find_near_duplicates as stage
from workflow_scripts.data.duplicates import (
    Pairs,
    candidates,
    fingerprints,
    local_contrast,
    near_duplicates,
    patient_numbers,
    perceptual_hash,
)
from workflow_scripts.data.profiles import letterbox, resize

SIZE = 128
THRESHOLDS = (stage.HASH_DISTANCE, stage.DISTANCE)


def sonogram(seed: int, size: int = SIZE) -> np.ndarray:
    """Tissue of random structure under speckle, bright at the top and dark at depth as every sonogram is."""
    random = np.random.default_rng(seed)
    tissue = gaussian_filter(random.normal(size=(size, size)), size / 20)
    speckle = gaussian_filter(random.normal(size=(size, size)), 1)
    depth = np.linspace(1.3, 0.4, size)[:, None]
    grey = 90 * depth * (1 + 0.5 * tissue / tissue.std()) * (1 + 0.2 * speckle / speckle.std())
    return grey.clip(0, 255).astype(np.uint8)


def found(views: list[np.ndarray], patients: list[int] | None = None, thresholds=THRESHOLDS, **options) -> Pairs:
    numbers = np.arange(len(views)) if patients is None else np.array(patients)
    return near_duplicates(fingerprints(views), numbers, *thresholds, **options)


def positions(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def as_jpeg(view: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(view).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def with_marker(view: np.ndarray) -> np.ndarray:
    image = Image.fromarray(view)
    draw = ImageDraw.Draw(image)
    draw.line((40, 60, 48, 60), fill=255, width=2)
    draw.line((44, 56, 44, 64), fill=255, width=2)
    draw.text((6, 112), "LT 12:00", fill=255)
    return np.array(image)


def with_noise(view: np.ndarray) -> np.ndarray:
    return (view + np.random.default_rng(9).normal(0, 8, view.shape)).clip(0, 255).astype(np.uint8)


ALTERED = {
    "brighter": lambda view: (view * 1.1 + 12).clip(0, 255).astype(np.uint8),
    "gamma": lambda view: (255 * (view / 255) ** 0.8).astype(np.uint8),
    "jpeg": as_jpeg,
    "resized": lambda view: resize(view, 200),
    "cropped": lambda view: resize(view[1:-1, 1:-1], SIZE),
    "noisy": with_noise,
    "marked": with_marker,
    "copied": np.copy,
}


@pytest.mark.parametrize("alteration", ALTERED)
def test_an_altered_copy_is_found_and_nothing_else(alteration: str):
    views = [sonogram(seed) for seed in range(8)]
    assert positions(found([*views, ALTERED[alteration](views[3])])) == [(3, 8)]


def test_other_pictures_are_not_near_duplicates():
    """Nor is their exact distance anywhere near, so that the hash is not what saves us."""
    views = [sonogram(seed) for seed in range(100, 160)]
    assert len(found(views).first) == 0
    assert found(views, thresholds=(256, 2)).distance.min() > 0.4


def test_speckle_of_its_own_makes_a_homogeneous_organ_another_picture():
    random = np.random.default_rng(0)
    views = [(90 + 25 * gaussian_filter(random.normal(size=(SIZE, SIZE)), 1.5) / 0.19) for _ in range(40)]
    assert len(found([view.clip(0, 255).astype(np.uint8) for view in views]).first) == 0


def test_views_of_one_patient_are_not_reported():
    view = sonogram(0)
    assert positions(found([view, view, view], [0, 0, 1])) == [(0, 2), (1, 2)]


def test_black_flat_and_faint_views_are_not_alike():
    black, flat = np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), 77, np.uint8)
    faint = [np.random.default_rng(seed).integers(0, 4, (SIZE, SIZE)).astype(np.uint8) for seed in range(5)]
    caption = with_marker(black)
    views = [black] * 20 + [flat] * 20 + faint + [caption] * 5
    prints = fingerprints(views)
    assert not prints.judged.any()
    assert list(candidates(prints.bits, prints.judged, np.arange(len(views)), 256)) == []


def test_a_dark_view_with_structure_is_judged():
    dark = (sonogram(0) * 0.3).astype(np.uint8)
    assert positions(found([sonogram(1), dark, dark])) == [(1, 2)]


@pytest.mark.parametrize("shape", [(64, 128), (128, 48)])
def test_borders_do_not_make_views_alike(shape: tuple[int, int]):
    views = [letterbox(sonogram(seed)[: shape[0], : shape[1]]) for seed in range(30)]
    assert len(found(views).first) == 0
    assert found(views, thresholds=(256, 2)).distance.min() > 0.3
    brighter = (views[4].astype(int) + 15).clip(0, 255).astype(np.uint8)
    assert positions(found([*views, brighter])) == [(4, 30)]


def test_local_contrast_ignores_gain_and_offset():
    view = sonogram(0) // 2
    np.testing.assert_allclose(local_contrast(view + 20), local_contrast(view), atol=1e-5)
    assert local_contrast(view) @ local_contrast(2 * view) > 0.95


def test_the_hash_is_that_of_imagehash():
    from imagehash import phash

    view = sonogram(0)
    expected = phash(Image.fromarray(view), hash_size=16).hash.ravel()
    np.testing.assert_array_equal(perceptual_hash(view) > 0, expected)


def test_hash_distances_and_pairs_do_not_depend_on_the_block():
    views = [ALTERED[name](sonogram(seed)) for seed in range(6) for name in ALTERED]
    patients = [seed * 3 + i // 3 for seed in range(6) for i in range(len(ALTERED))]
    whole = found(views, patients, block=10_000)
    assert len(whole.first) > 6
    for block in (1, 7, 48):
        for ours, theirs in zip(found(views, patients, block=block), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    bits = fingerprints(views).bits
    expected = (bits[whole.first] != bits[whole.second]).sum(axis=1)
    np.testing.assert_array_equal(whole.hash_distance, expected)


def test_candidates_are_those_of_every_pair_compared_in_turn():
    random = np.random.default_rng(0)
    bits = np.where(random.random((40, 256)) < 0.5, 1, -1).astype(np.int8)
    bits[20:] = np.where(random.random((20, 256)) < 0.2, -bits[:20], bits[:20])
    judged, patients = random.random(40) < 0.8, random.integers(0, 10, 40)
    expected = {
        (i, j, int((bits[i] != bits[j]).sum()))
        for i in range(40)
        for j in range(i + 1, 40)
        if judged[i] and judged[j] and patients[i] != patients[j] and (bits[i] != bits[j]).sum() <= 50
    }
    got = [
        (i, j, k)
        for block in candidates(bits, judged, patients, 50, block=7)
        for i, j, k in zip(*(column.tolist() for column in block), strict=True)
    ]
    assert len(expected) > 5
    assert sorted(got) == sorted(expected)


def test_ties_are_sorted_by_position():
    view, other = sonogram(0), sonogram(1)
    pairs = found([other, view, as_jpeg(view), view, other, view])
    assert positions(pairs)[:4] == [(0, 4), (1, 3), (1, 5), (3, 5)]
    assert (pairs.distance[:4] == 0).all()
    assert (np.diff(pairs.distance) >= 0).all()


def test_a_patient_is_a_patient_id_or_else_an_image():
    patients = patient_numbers(["A", "", "", "A", "", "B", ""], ["1", "2", "2", "3", "4", "5", "1"])
    assert patients.tolist() == [0, 1, 1, 0, 2, 3, 0]


def test_an_image_without_patient_is_not_the_patient_of_its_name():
    assert len(set(patient_numbers(["", "X"], ["X", "Y"]))) == 2


def test_no_views_no_pairs():
    assert positions(found([])) == []
    assert positions(found([sonogram(0)])) == []


def store(folder: Path, name: str, views: list[np.ndarray], patients: list[str]) -> None:
    np.save(folder / f"{name}.npy", np.stack(views))
    rows = [
        {"view_id": f"{name}{i}#full", "image_id": f"{name}{i}", "patient_id": patient, "organ": name, "label": "",
         "side": "", "view": "full", "coloured": "0"}
        for i, patient in enumerate(patients)
    ]  # fmt: skip
    write_rows(rows, list(rows[0]), folder / f"{name}.csv")


def run_stage(folder: Path, names: list[str], *options: str):
    arguments = ["--names", *names, "--views", *(str(folder / f"{name}.npy") for name in names)]
    arguments += ["--index", *(str(folder / f"{name}.csv") for name in names), *options]
    arguments += ["--output-pairs", str(folder / "pairs.csv"), "--output-figure", str(folder / "pairs.png")]
    stage.main(stage.parser().parse_args(arguments))
    return read_csv(folder / "pairs.csv")


def test_pairs_within_and_across_sets_are_listed(tmp_path: Path, capsys):
    shared, twice = sonogram(0), sonogram(1)
    store(tmp_path, "labelled", [sonogram(2), shared, twice, twice], ["P1", "P2", "P3", "P3"])
    store(tmp_path, "thyroid", [as_jpeg(shared), sonogram(3), twice, sonogram(4)], ["", "", "P3", ""])
    table = run_stage(tmp_path, ["labelled", "thyroid"], "--origin", "PHANTOM")
    assert list(table.columns) == list(stage.COLUMNS)
    row = read_rows(tmp_path / "pairs.csv")
    assert [(r["set_a"], r["view_a"], r["patient_a"], r["set_b"], r["view_b"], r["patient_b"]) for r in row] == [
        ("labelled", "labelled1#full", "P2", "thyroid", "thyroid0#full", "")
    ]
    said = capsys.readouterr().err
    assert "2 of 8 views, 1 of 25 pairs of different patients (1 across sets)" in said
    assert "'labelled' 1 of 4 views" in said
    assert "same patient_id" in said
    with Image.open(tmp_path / "pairs.png") as figure:
        assert figure.size[0] > 300


def test_none_gives_a_header_and_a_figure(tmp_path: Path, capsys):
    store(tmp_path, "thyroid", [sonogram(seed) for seed in range(3)], ["A", "B", ""])
    assert len(run_stage(tmp_path, ["thyroid"])) == 0
    assert (tmp_path / "pairs.csv").read_text() == ",".join(stage.COLUMNS) + "\n"
    assert "0 of 3 views, 0 of 3 pairs" in capsys.readouterr().err
    with Image.open(tmp_path / "pairs.png") as figure:
        assert figure.size[0] > 300


def test_both_thresholds_count(tmp_path: Path):
    views = [sonogram(0), as_jpeg(sonogram(0)), sonogram(0)]
    store(tmp_path, "a", views, ["A", "B", "C"])
    assert len(run_stage(tmp_path, ["a"])) == len(found(views).first) == 3
    assert positions(found(views, thresholds=(60, 0))) == [(0, 2)]
    assert len(found(views, thresholds=(0, 2)).first) >= 1


def test_many_pairs_are_all_listed_and_the_closest_shown(tmp_path: Path):
    store(tmp_path, "a", [sonogram(0)] * 7, list("ABCDEFG"))
    assert len(run_stage(tmp_path, ["a"])) == 21


def test_a_store_that_does_not_fit_its_index_is_an_error(tmp_path: Path):
    store(tmp_path, "a", [sonogram(0), sonogram(1)], ["A"])
    with pytest.raises(UserError, match=r"different numbers of rows: .*a\.npy 2, .*a\.csv 1"):
        run_stage(tmp_path, ["a"])


def test_lists_of_different_length_are_an_error(tmp_path: Path):
    store(tmp_path, "a", [sonogram(0)], ["A"])
    with pytest.raises(UserError, match="--names has 2 entries"):
        run_stage(tmp_path, ["a"], "--names", "a", "b")


def test_a_missing_store_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"a\.npy does not exist"):
        run_stage(tmp_path, ["a"])


@pytest.fixture(scope="module")
def real():
    with (SHARED / "real" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    views = (resize(letterbox(np.asarray(Image.open(SHARED / "real" / row["path"]).convert("L"))), 256) for row in rows)
    return (
        np.array([row["image_id"] for row in rows]),
        np.array([row["patient_id"] for row in rows]),
        fingerprints(views),
    )


def concerned(images: np.ndarray, pairs: Pairs, start: str) -> set[str]:
    return {name for name in images[np.r_[pairs.first, pairs.second]] if name.startswith(start)}


@needs_real
@pytest.mark.slow
def test_the_known_near_duplicates_of_real_images_are_found(real):
    """Within 0.011 lie the 17 of DDTI, most of them within a patient, and about 33 of BUSI; the default finds more."""
    images, _, prints = real
    closest = near_duplicates(prints, np.arange(len(images)), 60, 0.011)
    assert len(concerned(images, closest, "ddti")) == 17
    assert 30 <= len(concerned(images, closest, "busi")) <= 36


@needs_real
@pytest.mark.slow
def test_the_default_keeps_patients_of_real_images_apart(real):
    """DDTI: one frame filed under five patients and one under two. BUSI: both classes hold one picture."""
    images, patients, prints = real
    pairs = near_duplicates(prints, patient_numbers(patients.tolist(), images.tolist()), *THRESHOLDS)
    assert concerned(images, pairs, "ddti") == {
        "ddti_150_1", "ddti_233_2", "ddti_323_1", "ddti_326_1", "ddti_349_1", "ddti_353_2", "ddti_396_1",
    }  # fmt: skip
    names = {(images[i], images[j]) for i, j in positions(pairs)}
    assert ("busi_benign_0371", "busi_malignant_0488") in names
    assert all(first[:4] == second[:4] for first, second in names)
    assert 300 <= len(concerned(images, pairs, "busi")) <= 330
