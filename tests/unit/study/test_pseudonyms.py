"""Pseudonyms: every id of the manifest is hidden, kinds apart, and the key alone leads back."""

import csv
import re
from pathlib import Path

import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.study.manifest import own_ids, read_manifest, telling_ids, true_classes
from workflow_scripts.study.pseudonyms import hide_ids, pseudonym, read_key

SECRET = b"a secret of sixteen bytes or more"
ROWS = [
    {
        "image_id": "P001_left",
        "path": "P001.png",
        "patient_id": "P001",
        "organ": "testicle",
        "truth": "pos",
        "note": "x",
    },
    {"image_id": "P001", "path": "a.png", "patient_id": "P0011", "organ": "testicle", "truth": "neg", "note": ""},
    {"image_id": "scan7", "path": "b.png", "patient_id": "", "organ": "thyroid", "truth": "neg", "note": ""},
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "manifest.csv"
    with file.open("w", newline="") as target:
        writer = csv.DictWriter(target, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return file


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(SECRET + b"\n")
    return file


def test_a_pseudonym_is_sixteen_hexadecimal_digits_and_stays_the_same():
    # Computed with: printf 'patient\0P001' | openssl dgst -sha256 -hmac 'a secret of sixteen bytes or more'
    assert pseudonym("patient", "P001", SECRET) == "3b508bbd513505f9"
    assert re.fullmatch("[0-9a-f]{16}", pseudonym("image", "P001_left", SECRET))


def test_different_ids_kinds_and_keys_give_different_pseudonyms():
    ids = ["P001", "p001", "P0011", "P00", "P001_left", "001", "1", "01", "image", "imageP001", "patient", "é"]
    made = {pseudonym(kind, own, key) for kind in ("patient", "image") for own in ids for key in (SECRET, SECRET[1:])}
    assert len(made) == 2 * len(ids) * 2
    # Kind and id do not run into each other.
    assert pseudonym("a", "bc", SECRET) != pseudonym("ab", "c", SECRET)


def test_an_empty_id_stays_empty():
    assert pseudonym("patient", "", SECRET) == ""
    assert hide_ids(ROWS[2], SECRET)["patient_id"] == ""


def test_others_lose_the_right_to_read_the_key(key: Path):
    key.chmod(0o644)
    assert read_key(key) == SECRET
    assert key.stat().st_mode & 0o777 == 0o640


def test_only_the_ids_of_a_row_are_replaced():
    hidden = hide_ids(ROWS[0], SECRET)
    assert hidden == {
        **ROWS[0],
        "patient_id": pseudonym("patient", "P001", SECRET),
        "image_id": pseudonym("image", "P001_left", SECRET),
    }
    assert list(hidden) == list(ROWS[0])


def test_a_manifest_is_read_with_pseudonyms_and_the_key_leads_back(manifest: Path, key: Path):
    hidden = read_manifest(manifest, key)
    assert read_manifest(manifest) == ROWS
    assert [row["path"] for row in hidden] == [row["path"] for row in ROWS]
    back = own_ids(manifest, key)
    assert [back[row["image_id"]] for row in hidden] == ["P001_left", "P001", "scan7"]
    assert [back[row["patient_id"]] for row in hidden[:2]] == ["P001", "P0011"]
    assert len(back) == 5  # the empty id is nobody's
    # A patient and an image of the same id cannot be linked.
    assert hidden[0]["patient_id"] != hidden[1]["image_id"]


def test_true_classes_are_found_by_pseudonym(manifest: Path, key: Path):
    images = [row["image_id"] for row in read_manifest(manifest, key)]
    truth = true_classes(manifest, images, key)
    assert [truth[image] for image in images] == ["pos", "neg", "neg"]
    with pytest.raises(UserError, match="for example P001_left"):
        true_classes(manifest, ["P001_left"], key)


def test_image_ids_that_contain_their_patient_are_counted():
    rows = [
        {"image_id": "frame_9", "patient_id": "P9"},
        {"image_id": "scan-id07-1", "patient_id": "ID07"},
        {"image_id": "ID07_2", "patient_id": "ID07"},
        {"image_id": "anything", "patient_id": ""},
        {"image_id": "ID07_3", "patient_id": "ID08"},
    ]
    warning = telling_ids(rows)
    assert warning.startswith("warning: 2 image ids contain their patient id (for example scan-id07-1)")
    assert "data.patient_key" in warning
    assert "\n" not in warning
    assert telling_ids([rows[0], rows[3], rows[4]]) == ""
