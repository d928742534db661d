"""The released archive."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageDraw, ImageFont

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.data.text import COLUMNS
from workflow_scripts.privacy import find_text
from workflow_scripts.privacy import pack_release as release
from workflow_scripts.privacy.card import dataset_card, plain
from workflow_scripts.privacy.copies import without_held_out

INSIDE, COPY = [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 0]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    np.save(tmp_path / "views.npy", np.random.default_rng(0).integers(0, 256, (6, 20, 20)).astype(np.uint8))
    pd.DataFrame({"index": range(6), "inside": INSIDE, "distance_ratio": 0.9}).to_csv(
        tmp_path / "filter.csv", index=False
    )
    pd.DataFrame({
        "index": range(6), "nearest_view": [f"ID07_right#{i}" for i in range(6)], "feature_distance": 0.123456,
        "correlation": 0.5, "score": 1.0, "copy": COPY,
    }).to_csv(tmp_path / "privacy.csv", index=False)  # fmt: skip
    write_rows([], COLUMNS, tmp_path / "text.csv")
    interval = {"value": 0.52, "low": 0.45, "high": 0.6}
    summary = {
        "possible": True,
        "membership_auc": {"filtered": interval},
        "generator": {"secmi": {"auc": {"value": 0.61, "low": 0.55, "high": 0.67}}},
        "may_say": "May <b>say</b>",
        "may_not_say": "Not anonymous",
        "caveats": "C",
    }
    (tmp_path / "privacy.json").write_text(json.dumps(summary))
    rows = [("filtered", "precision", b, v) for b, v in ((0, 0.5), (1, 0.6), (2, 0.7), ("", 0.25))]
    rows += [("filtered_equal", "precision", "", 0.111), ("real", "kid", "", 0.0123)]
    pd.DataFrame(rows, columns=["set", "metric", "batch", "value"]).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path


def run_release(study: Path, *more: str, output: str = "set.zip") -> zipfile.ZipFile:
    release.main(release.parser().parse_args([
        "--views", f"{study}/views.npy", "--filter", f"{study}/filter.csv", "--privacy", f"{study}/privacy.csv",
        "--text", f"{study}/text.csv", "--summary", f"{study}/privacy.json", "--metrics", f"{study}/metrics.csv",
        "--organ", "testicle", "--output-archive", f"{study}/{output}", *more,
    ]))  # fmt: skip
    return zipfile.ZipFile(study / output)


def test_the_kept_views_that_are_no_copies_are_packed(study: Path) -> None:
    archive = run_release(study)
    pictures = [name for name in archive.namelist() if name.endswith(".png")]
    assert pictures == [f"train/synthetic_{i:06d}.png" for i in (0, 3, 5)]
    views = np.load(study / "views.npy")
    for name, row in zip(pictures, (0, 3, 5), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(archive.read(name)))), views[row])
    table = pd.read_csv(io.BytesIO(archive.read("train/metadata.csv")))
    assert list(table["file_name"]) == [Path(name).name for name in pictures]
    assert list(table["index"]) == [0, 3, 5]
    assert set(table["organ"]) == {"testicle"}
    assert set(table["origin"]) == {"generated"}


def test_checksums_cover_every_other_file(study: Path) -> None:
    archive = run_release(study)
    lines = [line.split("  ") for line in archive.read("checksums.sha256").decode().splitlines()]
    listed = {name: digest for digest, name in lines}
    assert set(listed) == set(archive.namelist()) - {"checksums.sha256"}
    for name, digest in listed.items():
        assert hashlib.sha256(archive.read(name)).hexdigest() == digest


def test_croissant_is_valid_and_reads_the_table(study: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    run_release(study, "--title", "Views of phantoms", "--licence", "https://creativecommons.org/licenses/by/4.0/")
    zipfile.ZipFile(study / "set.zip").extractall(study / "set")
    dataset = mlcroissant.Dataset(study / "set" / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    rows = list(dataset.records("views"))
    assert [row["views/index"] for row in rows] == [0, 3, 5]
    assert rows[0]["views/file_name"] == b"synthetic_000000.png"
    images = list(dataset.records("images"))
    assert sorted(row["images/file_name"] for row in images) == sorted(row["views/file_name"] for row in rows)
    first = next(row["images/image"] for row in images if row["images/file_name"] == b"synthetic_000000.png")
    assert np.array_equal(np.asarray(first)[..., 0], np.load(study / "views.npy")[0])


def test_torchvision_reads_the_unpacked_folder(study: Path) -> None:
    from torchvision.datasets import ImageFolder

    run_release(study).extractall(study / "set")
    folder = ImageFolder(str(study / "set"))
    assert folder.classes == ["train"]
    assert len(folder) == 3


def test_same_inputs_give_the_same_bytes(study: Path) -> None:
    run_release(study)
    run_release(study, output="again.zip")
    assert (study / "set.zip").read_bytes() == (study / "again.zip").read_bytes()


def test_nothing_of_real_views_is_inside(study: Path) -> None:
    archive = run_release(study)
    content = b"".join(archive.read(name) for name in archive.namelist()) + " ".join(archive.namelist()).encode()
    for trace in (b"ID07", b"0.123456", b"nearest_view"):
        assert trace not in content


def test_card_states_counts_metrics_privacy_and_what_is_not_chosen(study: Path) -> None:
    card = run_release(study).read("README.md").decode()
    assert "3 synthetic testicle ultrasound views" in card
    assert "| of these, flagged by the copy audit and left out | 1 |" in card
    assert "| precision | 0.6 ± 0.1 | 0.25 |" in card
    assert "0.0123" in card
    assert "0.111" not in card
    assert "not chosen" in card
    assert "Not anonymous" in card
    assert "May &lt;b&gt;say" in card
    assert "PHANTOM" not in card
    assert "Must not be used for" in card


def test_a_set_without_an_audit_is_refused_unless_asked_for_and_then_every_card_says_so(study: Path) -> None:
    (study / "privacy.json").write_text(json.dumps({"possible": False, **without_held_out(Path("holdout.csv"))}))
    pd.read_csv(study / "privacy.csv").assign(copy="").to_csv(study / "privacy.csv", index=False)
    with pytest.raises(UserError, match=r"no patient was held out.*release\.without_audit: true"):
        run_release(study)
    archive = run_release(study, "--without-audit")
    card = archive.read("README.md").decode()
    assert "**Not audited for copies**" in card
    assert "| of these, flagged by the copy audit and left out | not audited |" in card
    assert "| released | 4 |" in card
    assert "left out if it comes closer" not in card
    assert "NOT audited" in json.loads(archive.read("croissant.json"))["description"]


def test_origin_is_stamped_on_card_and_metadata(study: Path) -> None:
    archive = run_release(study, "--origin", "PHANTOM")
    assert "**PHANTOM**" in archive.read("README.md").decode()
    assert b"PHANTOM" in archive.read("train/metadata.csv")


def test_user_text_is_shown_and_never_markup(study: Path) -> None:
    title = 'A "set" <script>alert(1)</script> | [x](http://y) --- # new'
    card = (
        run_release(study, "--title", title, "--licence", "CC *BY* 4.0: yes", "--contact", "a_b@c.org")
        .read("README.md")
        .decode()
    )
    _, front, body = card.split("---\n", 2)
    header = yaml.safe_load(front)
    assert header["pretty_name"] == title
    assert header["license_name"] == "CC *BY* 4.0: yes"
    assert "<script" not in body
    assert r"\[x\](http&#58;//y)" in body
    assert r"\# new" in body
    assert r"CC \*BY\* 4.0" in body
    assert r"a\_b@c.org" in body


def test_a_title_of_several_lines_is_refused_by_the_stage_and_one_line_on_the_card(study: Path) -> None:
    title = "A set\n---\n# new"
    with pytest.raises(UserError, match="--title: .*one line"):
        run_release(study, "--title", title)
    facts = {"licence": "", "contact": "", "organ": "testicle", "origin": "", "size": 20, "metrics": []}
    counts = dict.fromkeys(("generated", "filtered", "copies", "text", "released"), 1)
    summary = json.loads((study / "privacy.json").read_text())
    _, front, body = dataset_card(title=title, **facts, counts=counts, privacy=summary).split("---\n", 2)
    assert yaml.safe_load(front)["pretty_name"] == "A set --- # new"
    assert "\n# new" not in body


def test_plain_text_stays_what_it_is() -> None:
    assert plain("Dr. A & B, 5 %") == "Dr. A &amp; B, 5 %"


def test_nothing_left_is_refused_with_numbers(study: Path) -> None:
    table = pd.read_csv(study / "privacy.csv")
    table["copy"] = 1
    table.to_csv(study / "privacy.csv", index=False)
    with pytest.raises(UserError, match=r"of 6 .* keeps 4, .* flags 4"):
        run_release(study)
    table[:5].to_csv(study / "privacy.csv", index=False)
    with pytest.raises(UserError, match=r"5"):
        run_release(study)


def test_views_with_text_are_left_out_or_nothing_is_released(study: Path) -> None:
    """The released views once more: a name in one of them, none in the others."""
    views = np.full((6, 96, 96), 40, np.uint8)
    for number in (2, 3):  # 2 is a copy and left out before
        picture = Image.fromarray(views[number])
        ImageDraw.Draw(picture).text((10, 40), "ROSSI", fill=255, font=ImageFont.load_default(size=14))
        views[number] = np.asarray(picture)
    np.save(study / "views.npy", views)
    find_words = [
        *("--views", f"{study}/views.npy", "--filter", f"{study}/filter.csv", "--privacy", f"{study}/privacy.csv"),
        *("--output-text", f"{study}/text.csv", "--output-figure", f"{study}/text.png"),
    ]
    find_text.main(find_text.parser().parse_args(find_words))
    archive = run_release(study)
    assert [name for name in archive.namelist() if name.endswith(".png")] == [
        "train/synthetic_000000.png", "train/synthetic_000005.png"
    ]  # fmt: skip
    assert "| of the others, left out since OCR found text in them | 1 |" in archive.read("README.md").decode()
    (row,) = read_rows(study / "text.csv")
    assert (row["view_id"], row["pattern"]) == ("synthetic_000003.png", "AAAAA")
    assert (study / "text.png").exists()
    (study / "text.csv").unlink()
    with pytest.raises(UserError, match=r"1 view holds text.*\n.*synthetic_000003.png: AAAAA\nnothing is released"):
        find_text.main(find_text.parser().parse_args([*find_words, "--on-text", "fail"]))
    assert not (study / "text.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"may_say": -1}, r"privacy.json is no summary of a copy audit \(may_say: .*string.*run the audit again"),
        ({"possible": "yes"}, r"\(possible: "),
        ({"membership_auc": {"filtered": {"value": 0.5, "low": "x", "high": 1}}}, r"\(membership_auc.filtered.low: "),
        (
            {"generator": {"secmi": {"auc": {"value": float("nan"), "low": 0, "high": 1}}}},
            r"\(generator.secmi.auc.value: ",
        ),
        ({"generator": None}, "lacks membership_auc or generator"),
        (None, "top level"),
    ],
)
def test_a_damaged_summary_is_refused(study: Path, changes: dict[str, object] | None, message: str) -> None:
    summary = json.loads((study / "privacy.json").read_text())
    (study / "privacy.json").write_text(json.dumps([] if changes is None else summary | changes))
    with pytest.raises(UserError, match=message):
        run_release(study)
    assert not list(study.glob("*.zip"))


def test_damaged_metrics_are_refused(study: Path) -> None:
    (study / "metrics.csv").write_text("set,metric,batch,value\nfiltered,fid,,1\nfiltered,kid,,word\n")
    with pytest.raises(UserError, match="metrics.csv, row 2: value 'word' is not a number"):
        run_release(study)
    assert not list(study.glob("*.zip"))
