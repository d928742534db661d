"""The review page in a real browser: decided by keyboard, kept over a reload, downloaded, and fed back to the workflow."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.chromium import Chromium, needs_chromium, until
from workflow_scripts.audit import clean_labels
from workflow_scripts.audit import make_review_page as review_page
from workflow_scripts.audit import measure_agreement as agreement
from workflow_scripts.audit.labels import rows_of_clinician
from workflow_scripts.core.files import read_rows, write_csv, write_npy

pytestmark = needs_chromium
CLASSES = ["homogeneous", "inhomogeneous"]
COMMENT = '=HYPERLINK("http://example.org"), <img src=x onerror=alert(1)> "quoted"\nsecond line; àé'
# A frame of which both views are suspicious, one of which one is, and one with a name that is markup.
SUSPICIOUS = ["both#transverse", "both#sagittal", "one#transverse", "<img src=x onerror=alert(1)>#sagittal"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the audit's results on twelve frames, labels by turns."""
    frames = ["both", "one", "<img src=x onerror=alert(1)>", *(f"frame{i}" for i in range(9))]
    index = pd.DataFrame(
        [
            {"view_id": f"{frame}#{view}", "image_id": frame, "patient_id": f"patient{i}", "side": "", "organ": "testicle",
             "label": CLASSES[i % 2], "view": view}
            for i, frame in enumerate(frames)
            for view in ("transverse", "sagittal")
        ]
    )  # fmt: skip
    suspicious = index["view_id"].isin(SUSPICIOUS).astype(int)
    votes = index[["view_id", "label"]].assign(votes=16 * suspicious, evaluations=16, suspicious=suspicious)
    flipped = index[["view_id"]].assign(
        label=[
            CLASSES[(label == CLASSES[1]) ^ doubted] for label, doubted in zip(index["label"], suspicious, strict=True)
        ],
        keep=1,
    )
    losses = pd.concat(
        votes[["view_id"]].assign(fold=0, epoch=epoch, loss=2.0 * suspicious + 1 / epoch) for epoch in range(1, 6)
    )
    tables = {"index": index, "votes": votes, "losses": losses, "flipped": flipped}
    tables["complete"] = index[["view_id", "label"]].assign(keep=1)
    for name, table in tables.items():
        write_csv(table, tmp_path / f"{name}.csv")
    write_npy(np.random.default_rng(0).integers(0, 256, (24, 32, 32)).astype(np.uint8), tmp_path / "views.npy")
    return tmp_path


def call(stage, *words: object) -> None:
    """Run a stage in this process."""
    stage.main(stage.parser().parse_args([str(word) for word in words]))


def page_of(study: Path, mode: str) -> tuple[Path, list[dict]]:
    """The page and its cards."""
    page = study / f"{mode}.html"
    call(
        review_page, "--votes", study / "votes.csv", "--losses", study / "losses.csv", "--views", study / "views.npy",
        "--index", study / "index.csv", "--classes", *CLASSES, "--mode", mode, "--origin", "PHANTOM", "--output-page", page,
    )  # fmt: skip
    text = re.search(r'id="study">(.*?)</script>', page.read_text(encoding="utf-8"))[1]
    return page, json.loads(text)["cards"]


def go_to(browser: Chromium, cards: list[dict], view: str) -> dict:
    """Choose a card in the list of all."""
    position = next(i for i, card in enumerate(cards) if card["id"] == view)
    browser.click(f"#cards button:nth-child({position + 1})")
    assert f"View {position + 1} of" in browser.text("#place")
    return cards[position]


def download(browser: Chromium, folder: Path) -> Path:
    """Fetch decisions.csv by the summary's button."""
    browser.press("s")
    browser.click("#download")
    file = folder / "decisions.csv"
    until(lambda: file.is_file() and file.stat().st_size > 0, "the download")
    return file


def test_a_blind_review_from_the_first_key_to_the_label_set(study: Path):
    page, cards = page_of(study, "blind")
    assert len(cards) == 8
    with Chromium(study / "profile", study) as browser:
        browser.open(page)
        assert "PHANTOM" in browser.text("header")
        one = go_to(browser, cards, "one#transverse")
        before = browser.text("body")
        assert one["id"] not in before
        assert "flagged" not in before
        browser.press("1")  # labelled inhomogeneous
        assert "inhomogeneous" in browser.text("#reveal .verdict")
        assert "it is flipped" in browser.text("#reveal")
        assert "suspicious: 16 of 16" in browser.text("#reveal")
        assert browser.evaluate("document.querySelectorAll('#reveal svg polyline').length") == 1
        browser.press("2")  # a slip of the finger changes nothing
        assert "it is flipped" in browser.text("#reveal")

        go_to(browser, cards, "both#sagittal")
        browser.press("c")
        browser.type(COMMENT)
        browser.press("Escape", "1")  # labelled homogeneous, but its other view is still to be read
        assert browser.text("#reveal .verdict") == "Noted."
        assert "both#sagittal" not in browser.text("body")
        go_to(browser, cards, SUSPICIOUS[3])
        browser.press("u")
        assert browser.text("#place").endswith(SUSPICIOUS[3])

        browser.reload()
        # Should the browser still be writing when the new page reads, its storage event brings the rest.
        browser.wait("document.querySelector('#count').innerText === '3 of 8 decided'")
        go_to(browser, cards, "both#sagittal")
        assert browser.evaluate("document.getElementById('comment').value") == COMMENT
        go_to(browser, cards, "one#transverse")
        assert "it is flipped" in browser.text("#reveal")
        browser.press("z")
        assert browser.text("#count") == "2 of 8 decided"
        assert browser.text("#reveal") == ""
        browser.press("2")
        assert "it is kept" in browser.text("#reveal")
        browser.press("Enter")
        assert "not decided" in browser.evaluate("document.querySelector('#cards .current').title")
        file = download(browser, study)

        assert browser.errors == []
        assert {address for address in browser.requests if not address.startswith(("data:", "blob:"))} == {
            page.as_uri()
        }
        browser.evaluate("document.addEventListener('securitypolicyviolation', (e) => (window.refused = e.blockedURI))")
        browser.evaluate("void fetch('http://127.0.0.1:9/').catch(() => {})")
        browser.wait("window.refused")

    rows = {row["view_id"]: row for row in rows_of_clinician(read_rows(file), "decisions.csv")}
    assert {view: (row["decision"], row["reading"], row["blind"]) for view, row in rows.items()} == {
        "one#transverse": ("keep", "inhomogeneous", "0"),
        "both#sagittal": ("keep", "homogeneous", "1"),
        SUSPICIOUS[3]: ("unsure", "", "1"),
    }
    assert rows["both#sagittal"]["comment"] == COMMENT
    assert "'=HYPERLINK" in file.read_text(encoding="utf-8")


def test_an_open_review_becomes_a_label_set_and_an_agreement(study: Path):
    page, cards = page_of(study, "open")
    assert {card["id"] for card in cards[:4]} == set(SUSPICIOUS)
    with Chromium(study / "profile", study) as browser:
        browser.open(page)
        assert cards[0]["label"] in browser.text("#shown-label")
        assert cards[0]["id"] in browser.text("#place")
        browser.press("k", "Enter", "f", "Enter", "d", "Enter", "u", "Enter", "f", "Backspace", "k")
        for _ in range(3):
            browser.press("Enter", "1")
        browser.press("Enter")
        assert "All views are decided" in browser.text("#summary")
        assert browser.text("#summary-body tr:first-child").split() == ["suspicious", "1", "1", "1", "1", "4"]
        file = download(browser, study)
        assert browser.errors == []
        # Another study's page must not inherit them.
        browser.open(page_of(study, "blind")[0])
        assert browser.text("#count") == "0 of 8 decided"

    call(
        clean_labels, "--policy", "reviewed", "--decisions", file, "--complete", study / "complete.csv",
        "--classes", *CLASSES, "--output-labels", study / "reviewed.csv",
    )  # fmt: skip
    original = {row["view_id"]: row["label"] for row in read_rows(study / "complete.csv")}
    reviewed = {row["view_id"]: row for row in read_rows(study / "reviewed.csv")}
    assert [view for view in original if reviewed[view]["label"] != original[view]] == [cards[1]["id"]]
    assert [view for view in original if reviewed[view]["keep"] == "0"] == [cards[2]["id"]]
    call(
        agreement, "--decisions", file, "--complete", study / "complete.csv", "--flipped", study / "flipped.csv",
        "--votes", study / "votes.csv", "--index", study / "index.csv", "--classes", *CLASSES,
        "--output-agreement", study / "agreement.csv",
    )  # fmt: skip
    rows = {(row["set"], row["against"]): row for row in read_rows(study / "agreement.csv")}
    assert [rows["suspicious", "original"][key] for key in ("views", "unsure", "discarded", "agreement")] == [
        "2",
        "1",
        "1",
        "0.5",
    ]
    assert [rows["controls", "original"][key] for key in ("views", "kappa")] == ["4", "1.0"]


def test_a_browser_that_keeps_nothing_says_so(study: Path):
    page, _ = page_of(study, "blind")
    with Chromium(study / "profile", study) as browser:
        denied = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied'); }})"
        browser.send("Page.addScriptToEvaluateOnNewDocument", source=denied)
        browser.open(page)
        assert "does not keep your decisions" in browser.text("#warning")
        browser.press("1")
        assert browser.text("#count") == "1 of 8 decided"
        assert browser.errors == []
