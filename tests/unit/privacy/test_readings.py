"""Generated views read blind among real ones: the page, the score, and what of it reaches the released set."""

import importlib.util
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.chromium import Chromium, needs_chromium, until
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_csv, write_npy, write_rows
from workflow_scripts.data.text import COLUMNS
from workflow_scripts.privacy import make_reading_page, pack_release
from workflow_scripts.privacy.readings import NOBODY, READING_COLUMNS, Reading, blind_order, draw_views, read_readings

AXE = Path(importlib.util.find_spec("axe_core_python").origin).with_name("axe.min.js")
GENERATED = 12
# Number 3 is outside the filter, 5 a copy and 6 has text in it: none is ever on the page. Nor is the text's real view.
OUTSIDE, COPY, TEXT, REAL_TEXT = 3, 5, 6, "SECRET4#a"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with twelve generated views and sixteen real ones of eight patients."""
    draw = np.random.default_rng(0)
    write_npy(draw.integers(0, 256, (GENERATED, 32, 32)).astype(np.uint8), tmp_path / "synthetic.npy")
    write_npy(draw.integers(0, 256, (16, 32, 32)).astype(np.uint8), tmp_path / "labelled.npy")
    patients = [f"ID-{i // 2}" for i in range(16)]
    names = pd.DataFrame({"view_id": [f"SECRET{i}#a" for i in range(16)], "patient_id": patients, "image_id": patients})
    columns = {"organ": "testicle", "label": "homogeneous", "view": "axial", "side": ""}
    write_csv(names.assign(**columns), tmp_path / "labelled.csv")
    numbers = pd.DataFrame({"index": range(GENERATED)})
    write_csv(numbers.assign(inside=(numbers["index"] != OUTSIDE).astype(int)), tmp_path / "filter.csv")
    write_csv(numbers.assign(copy=(numbers["index"] == COPY).astype(int)), tmp_path / "privacy.csv")
    for name, view in (("text", f"synthetic_{TEXT:06d}.png"), ("real_text", REAL_TEXT)):
        row = dict(zip(COLUMNS, (view, 1, 1, 5, 20, "AAAA", 0.9), strict=True))
        write_rows([row], COLUMNS, tmp_path / f"{name}.csv")
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    summary = {
        "possible": True, "membership_auc": {"filtered": interval}, "generator": {"secmi": {"auc": interval}}, "may_say": "A",
        "may_not_say": "B", "caveats": "C",
    }  # fmt: skip
    (tmp_path / "privacy.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_text("set,metric,batch,value\nfiltered,precision,,0.5\n")
    return tmp_path


def make_page(study: Path, *words: object) -> tuple[str, list[dict[str, str]]]:
    """The page's text and the rows of its key."""
    call(
        make_reading_page, "--synthetic-views", study / "synthetic.npy", "--filter", study / "filter.csv",
        "--privacy", study / "privacy.csv", "--text", study / "text.csv", "--real-views", study / "labelled.npy",
        "--real-index", study / "labelled.csv", "--real-text", study / "real_text.csv",
        "--output-page", study / "reading.html", "--output-key", study / "key.csv", *words,
    )  # fmt: skip
    return (study / "reading.html").read_text(encoding="utf-8"), read_rows(study / "key.csv")


def call(stage, *words: object) -> None:
    """Run a stage in this process."""
    stage.main(stage.parser().parse_args([str(word) for word in words]))


def pack(study: Path, *words: object) -> zipfile.ZipFile:
    """The released archive."""
    call(
        pack_release, "--views", study / "synthetic.npy", "--filter", study / "filter.csv", "--privacy",
        study / "privacy.csv", "--text", study / "text.csv", "--summary", study / "privacy.json",
        "--metrics", study / "metrics.csv", "--organ", "testicle", "--output-archive", study / "set.zip", *words,
    )  # fmt: skip
    return zipfile.ZipFile(study / "set.zip")


def answer(key: list[dict[str, str]], path: Path, unfit: tuple[str, ...] = (), wrong: tuple[str, ...] = ()) -> None:
    """Write the readings of someone who is right but for the views `wrong`, and calls the views `unfit` so."""
    other = {"generated": "real", "real": "generated"}
    rows = [
        {
            "page": row["page"],
            "view": row["view"],
            "reading": other[row["source"]] if row["view"] in wrong else row["source"],
            "fit": "no" if row["view"] in unfit else "yes",
        }
        for row in key
    ]
    write_rows(rows, READING_COLUMNS, path)


def of(key: list[dict[str, str]], source: str) -> list[dict[str, str]]:
    return [row for row in key if row["source"] == source]


def test_the_page_shows_as_many_real_views_as_generated_ones_one_per_patient(study: Path):
    page, key = make_page(study)
    generated, real = of(key, "generated"), of(key, "real")
    assert len(generated) == len(real) == 8  # patients
    assert not {str(OUTSIDE), str(COPY), str(TEXT)} & {row["name"] for row in generated}
    assert all(REAL_TEXT not in {row["name"] for row in of(make_page(study, "--seed", i)[1], "real")} for i in range(5))
    index = pd.read_csv(study / "labelled.csv").set_index("view_id")["patient_id"]
    assert index[[row["name"] for row in real]].nunique() == 8
    assert [row["view"] for row in key] == [str(i) for i in range(1, 17)]
    assert len(of(make_page(study, "--reading-views", 3)[1], "real")) == 3
    assert make_page(study)[0] == page
    assert make_page(study, "--seed", 1)[0] != page


def test_the_page_holds_neither_source_nor_name_nor_id(study: Path):
    page, _ = make_page(study)
    contents = json.loads(re.search(r'id="study">(.*?)</script>', page)[1])
    assert contents["cards"][2] == {"id": "3", "image": 3, "plane": "", "others": []}
    assert contents.keys() == {"fingerprint", "mode", "classes", "origin", "cards", "images"}
    words = json.dumps({**contents, "images": sorted(contents["images"])})
    assert not re.search(r"SECRET|ID-|synthetic|generated|real|axial|homogeneous|\.npy|\.png", words)
    assert "SECRET" not in page
    assert str(study) not in page
    for image in contents["images"].values():
        assert image.startswith("data:image/png;base64,iVBOR")


def test_the_order_follows_from_the_views_and_not_from_the_seed_alone():
    def first_half(seed: int) -> tuple[bool, ...]:
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 8, 8)).astype(np.uint8)
        return tuple(i < 10 for i in blind_order(list(pixels), 0))

    assert len({first_half(seed) for seed in range(20)}) == 20


def test_a_reader_who_guesses_has_an_interval_around_one_half_and_one_who_knows_has_not():
    """Also under repetition: exact intervals hold 0.5 in at least 95 % of the readings of guessers."""
    draw = np.random.default_rng(0)
    held = []
    for right_generated, right_real in draw.binomial(50, 0.5, (400, 2)):
        text = Reading(50, int(right_generated), int(right_real), frozenset(), 0).text
        low, high = map(int, re.search(r"generated: \d+ of 100, .*?interval (\d+) to (\d+) %", text).groups())
        held.append(low <= 50 <= high)
    assert np.mean(held) >= 0.95
    assert "75 of 100, 75 % (95 % interval 65 to 83 %)" in Reading(50, 40, 35, frozenset(), 0).text


def test_right_answers_sensitivity_specificity_and_unfit_views_are_counted(study: Path):
    _, key = make_page(study)
    generated, real = of(key, "generated"), of(key, "real")
    missed, unfit = generated[0]["view"], (generated[1]["view"], real[0]["view"])
    answer(key, study / "readings.csv", unfit, (missed, *(row["view"] for row in real[:3])))
    reading = read_readings(study / "readings.csv", study / "key.csv")
    assert reading == Reading(8, 7, 5, frozenset([int(generated[1]["name"])]), 1)


def test_unfit_views_stay_out_of_the_release_whose_cards_say_what_was_read(study: Path):
    _, key = make_page(study)
    unfit = [of(key, "generated")[i] for i in (0, 4)]
    answer(key, study / "readings.csv", tuple(row["view"] for row in unfit))
    archive = pack(study, "--readings", study / "readings.csv", "--key", study / "key.csv")
    left = set(range(GENERATED)) - {OUTSIDE, COPY, TEXT} - {int(row["name"]) for row in unfit}
    names = {f"train/synthetic_{number:06d}.png" for number in left}
    assert {name for name in archive.namelist() if name.endswith(".png")} == names
    card, croissant = archive.read("README.md").decode(), json.loads(archive.read("croissant.json"))
    assert "| of the others, left out since a reader called them not fit to be shared | 2 |" in card
    assert f"| released | {len(left)} |" in card
    # Eight of each, all right: exact intervals end at 1 and begin where 0.975 = 1 - low^16.
    for text in (card, croissant["rai:dataAnnotationAnalysis"]):
        assert "16 of 16, 100 % (95 % interval 79 to 100 %)" in text
        assert "2 of 8, 25 %" in text
    for trace in (b"SECRET", b"ID-"):
        assert not any(trace in archive.read(name) for name in archive.namelist())


def test_a_release_without_readings_says_that_nobody_read_it(study: Path):
    archive = pack(study)
    assert NOBODY in archive.read("README.md").decode()
    assert json.loads(archive.read("croissant.json"))["rai:dataAnnotationAnalysis"] == NOBODY
    with pytest.raises(UserError, match="--readings and --key belong together"):
        pack(study, "--readings", study / "readings.csv")


@pytest.mark.parametrize("read", [False, True])
def test_croissant_with_its_rai_field_is_valid(study: Path, read: bool):
    mlcroissant = pytest.importorskip("mlcroissant")
    answer(make_page(study)[1], study / "readings.csv")
    pack(study, *(["--readings", study / "readings.csv", "--key", study / "key.csv"] if read else [])).extractall(study)
    metadata = mlcroissant.Dataset(study / "croissant.json").metadata
    assert not metadata.ctx.issues.errors
    assert metadata.data_annotation_analysis[0].startswith("A reader saw 8" if read else "Nobody has read")


def test_readings_of_another_page_are_refused(study: Path):
    _, key = make_page(study)
    answer(key, study / "readings.csv")
    pixels = np.load(study / "synthetic.npy")
    pixels[int(of(key, "generated")[0]["name"]), 0, 0] ^= 1
    write_npy(pixels, study / "synthetic.npy")
    make_page(study)
    with pytest.raises(
        UserError, match=r"readings.csv, line 2: 'page-\w+' was read, but the present page is 'page-\w+'"
    ):
        pack(study, "--readings", study / "readings.csv", "--key", study / "key.csv")
    assert not (study / "set.zip").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"holds 15 of the page's 16 views; read the others"),
        (lambda rows: [*rows, rows[0]], r"line 18: view '1' is answered twice"),
        (lambda rows: [{**rows[0], "view": "17"}], r"line 2: view '17' is not on the page"),
        (lambda rows: [{**rows[0], "reading": "unsure"}], r"line 2: reading 'unsure' is neither real nor generated"),
        (lambda rows: [{**rows[0], "fit": ""}], r"line 2: fit '' is neither yes nor no"),
        (lambda rows: [{"page": row["page"], "view": row["view"]} for row in rows], r"lacks reading, fit; download"),
        (lambda rows: [], r"holds 0 of the page's 16 views"),
    ],
)
def test_damaged_and_unfinished_readings_are_refused(study: Path, change, message: str):
    answer(make_page(study)[1], study / "readings.csv")
    rows = change([dict(row) for row in read_rows(study / "readings.csv")])
    write_rows(rows, list(rows[0]) if rows else READING_COLUMNS, study / "readings.csv")
    with pytest.raises(UserError, match=message):
        read_readings(study / "readings.csv", study / "key.csv")


def test_a_set_without_a_view_to_read_is_refused(study: Path):
    write_csv(pd.read_csv(study / "filter.csv").assign(inside=0), study / "filter.csv")
    with pytest.raises(UserError, match="no view is left to read: of 12 synthetic views the filter"):
        make_page(study)
    rows = [dict.fromkeys(COLUMNS, f"SECRET{i}#a") for i in range(16)]
    write_rows(rows, COLUMNS, study / "real_text.csv")
    write_csv(pd.read_csv(study / "filter.csv").assign(inside=1), study / "filter.csv")
    with pytest.raises(UserError, match=r"no real view is left to read: OCR found text in every one \(.*real_text.csv"):
        make_page(study)


def test_no_patient_is_drawn_twice_and_every_view_can_be():
    patients = np.repeat(["a", "b", "c"], 4)
    drawn = [draw_views(range(5), patients, 2, seed) for seed in range(60)]
    assert all(len(set(numbers)) == 2 and len(set(patients[rows])) == 2 for numbers, rows in drawn)
    assert {row for _, rows in drawn for row in rows} == set(range(12))


@needs_chromium
def test_the_page_is_read_by_keyboard_and_its_file_is_scored(study: Path):
    _, key = make_page(study, "--reading-views", 2, "--origin", "PHANTOM")
    with Chromium(study / "profile", study) as browser:
        browser.open(study / "reading.html")
        for size in ((390, 844), (1280, 900)):
            browser.send(
                "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
            )
            assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
            browser.evaluate(AXE.read_text(encoding="utf-8"))
            browser.evaluate("delete window.found; axe.run().then((result) => (window.found = result)); 0")
            browser.wait("window.found")
            faults = browser.evaluate("found.violations.map((fault) => [fault.impact, fault.id, fault.nodes[0].html])")
            assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []
        browser.press("4", "Enter")  # generated, not fit
        browser.press("c")
        browser.type("=1+1")
        browser.press("Escape", "1", "Backspace", "2", "Enter")  # real, not fit
        assert browser.text("#count") == "2 of 4 decided"
        browser.reload()
        browser.wait("document.querySelector('#count').innerText === '2 of 4 decided'")
        browser.press("3", "Enter", "1", "Enter")
        assert "All views are decided" in browser.text("#summary")
        assert browser.text("#summary-body").split() == ["all", "1", "1", "1", "1", "4"]
        browser.click("#download")
        file = study / "readings.csv"
        until(lambda: file.is_file() and file.stat().st_size > 0, "the download")
        assert browser.errors == []
        asked = {address for address in browser.requests if not address.startswith(("data:", "blob:"))}
        assert asked == {(study / "reading.html").as_uri()}
    assert "'=1+1" in file.read_text(encoding="utf-8")
    said = dict(zip("1234", ("generated", "real", "generated", "real"), strict=True))
    reading = read_readings(file, study / "key.csv")
    right = [row["source"] for row in key if said[row["view"]] == row["source"]]
    assert (reading.right_generated, reading.right_real) == (right.count("generated"), right.count("real"))
    assert len(reading.unfit) + reading.unfit_real == 2
