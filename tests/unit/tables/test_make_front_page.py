"""The page to read first: what it says, that it escapes every name, and how it holds up in a browser."""

import base64
import importlib.util
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.chromium import Chromium, needs_chromium
from tests.unit.finetuning.test_metrics import CLASSES, predictions
from workflow_scripts.audit.shortcuts import Finding
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv, write_json
from workflow_scripts.finetuning.predictions import decide
from workflow_scripts.tables import make_front_page, tables
from workflow_scripts.tables.forest import Mark
from workflow_scripts.tables.make_front_page import page_name, position, row_of, ticks
from workflow_scripts.tables.rows import Row

# What a user may call a row or a picture: markup, and what a template would make of it.
HOSTILE = '<img src=x onerror="alert(1)"> {{ 7*7 }} & $x$'
ROWS = [
    {"name": HOSTILE, "experiment": "scratch-flipped", "init": "scratch", "paper": "scratch"},
    {"name": "UD", "experiment": "ud-flipped", "init": "ud", "paper": "ud"},
    {"name": "majority class", "experiment": "majority-flipped", "init": "majority"},
]
AXE = Path(importlib.util.find_spec("axe_core_python").origin).with_name("axe.min.js")


def privacy(copies: int, certified: bool) -> dict:
    """What the page reads of a privacy audit's summary."""
    return {
        "possible": True,
        "flagged": {"filtered": {"views": 40, "copies": copies}},
        "membership_auc": {"filtered": {"value": 0.52, "low": 0.41, "high": 0.63}},
        "control": {"share": 0.025},
        "rate_certified": certified,
        "held_out_views": 28,
        "planted": [{"kind": "exact", "share": 1.0}, {"kind": "cropped", "share": 0.03}],
    }


def shortcuts(size: float = 0.6, overlay: float = 0.2) -> pd.DataFrame:
    """A table of the shortcut audit: the corrected p values of two tests, and one that was not made."""
    findings = [
        Finding("size", 6, 0.56, 0.49, 0.63, size / 2, size),
        Finding("source", 0, *[float("nan")] * 5),
        Finding("overlay", 3, 0.71, 0.64, 0.78, overlay / 2, overlay),
    ]
    return pd.DataFrame([asdict(finding) for finding in findings])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results that the page is made from."""
    tmp_path = tmp_path_factory.mktemp("results")
    draw, base = np.random.default_rng(1), predictions()
    experiments = {}
    for row in ROWS:
        probability = draw.random(len(base))
        experiments[row["experiment"]] = base.assign(probability=probability, prediction=decide(probability, CLASSES))
    for name, table in experiments.items():
        write_csv(table, tmp_path / f"{name}.csv")
    views = next(iter(experiments.values()))
    first = views[views["seed"] == views["seed"].min()]
    index = first[["view_id", "patient_id"]].assign(organ="testicle", label=first["label_original"])
    write_csv(index, tmp_path / "index.csv")
    write_csv(
        index[["view_id", "label"]].assign(votes=0, evaluations=4, suspicious=[1, 1, *[0] * (len(index) - 2)]),
        tmp_path / "votes.csv",
    )
    write_csv(pd.DataFrame(columns=["set_a", "view_a", "set_b", "view_b"]), tmp_path / "pairs.csv")
    write_csv(shortcuts(), tmp_path / "shortcuts.csv")
    write_json(privacy(0, True), tmp_path / "privacy.json")
    results = ["confirmed", "within noise", "within noise"]
    write_csv(pd.DataFrame({"claim": ["a", "b", "c"], "result": results}), tmp_path / "claims.csv")
    rows = [Row(row["name"], row["experiment"], row["init"], paper=row.get("paper", "")) for row in ROWS]
    values = tables.numbers(rows, experiments, CLASSES[1], "runs", "UD")
    write_csv(tables.with_paper_numbers("table2", values, [row.paper for row in rows]), tmp_path / "table2.csv")
    for i in range(4):
        Image.fromarray(np.full((300, 1300 + i, 3), 60 * i, dtype=np.uint8)).save(tmp_path / f"figure {i}.png")
    return tmp_path


@pytest.fixture
def study(results: Path, tmp_path: Path) -> Path:
    """A copy of the results that a test may change."""
    return Path(shutil.copytree(results, tmp_path / "results"))


def make(study: Path, *more: object) -> tuple[Path, str]:
    """The page and its text."""
    page = study / "index.html"
    words = [
        "--index", study / "index.csv", "--votes", study / "votes.csv", "--pairs", study / "pairs.csv",
        "--shortcuts", study / "shortcuts.csv",
        "--summaries", study / "privacy.json", "--claims", study / "claims.csv", "--table", "table2",
        "--numbers", study / "table2.csv", "--rows", json.dumps(ROWS), "--experiments", *[row["experiment"] for row in ROWS],
        "--predictions", *[study / f"{row['experiment']}.csv" for row in ROWS], "--classes", *CLASSES,
        "--figures", *[study / f"figure {i}.png" for i in range(4)], "--names", "frames", HOSTILE, "pairs", "heat",
        "--pages", study / "pages" / "report.html", study / "table1_protocols.html",
        "--holdout-protocol", "per_fold", "--output-page", page, *more,
    ]  # fmt: skip
    make_front_page.main(make_front_page.parser().parse_args([str(word) for word in words]))
    return page, page.read_text(encoding="utf-8")


def test_the_page_says_what_the_results_say(study: Path) -> None:
    _, text = make(study)
    for sentence in (
        "0 of 40 filtered views are flagged as copies",
        "AUC 0.52 (0.41 to 0.63)",
        "2 of 24 labels are suspicious (8.3 %)",
        "no clinician has decided them yet",
        "1 confirmed, 2 within noise, 0 no verdict, 0 contradicted, 0 not tested here, of 3.",
        "Neg or pos?",
        "The copy audit misses most planted copies of these kinds: cropped (3 % found).",
        "Table 1, protocols",
    ):
        assert sentence in text
    for absent in (
        "PHANTOM",
        "near-identical",
        "flagged as possible copies",
        "One seed",
        "cannot be certified",
        "saw the",
        "what is no tissue",
    ):
        assert absent not in text
    assert 'href="figure%200.png"' in text
    assert 'href="pages/report.html"' in text
    assert text.count('class="paper"') == 1  # the reference has no difference, the baseline no row of the paper
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    ]
    assert [width for width, _ in sizes] == [1000] * 4


def test_every_name_is_escaped(study: Path) -> None:
    _, text = make(study, "--origin", "PHANTOM")
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt; {{ 7*7 }} &amp; $x$") >= 3
    assert "PHANTOM: made from drawn images" in text


def test_warnings_come_from_the_results(study: Path) -> None:
    write_csv(
        pd.DataFrame({"set_a": ["labelled"], "view_a": ["x"], "set_b": ["labelled"], "view_b": ["y"]}),
        study / "pairs.csv",
    )
    write_json(privacy(3, False), study / "privacy.json")
    agreement = {"set": ["suspicious"], "against": ["original"], "views": [2], "agreement": [0.5]}
    write_csv(pd.DataFrame(agreement), study / "agreement.csv")
    for row in ROWS:
        path = study / f"{row['experiment']}.csv"
        table = pd.read_csv(path)
        write_csv(table[table["seed"] == 0], path)
    _, text = make(
        study, "--split-by", "view", "--holdout-protocol", "none", "--agreement", study / "agreement.csv",
    )  # fmt: skip
    warnings = re.findall("<li>(.*?)</li>", text.partition("Before you quote")[2].partition("</section>")[0])
    assert [warning.split(":")[0].split(",")[0] for warning in warnings] == [
        "Folds are of views",
        "1 pair of near-identical views belong to different patients",
        "3 generated views that passed the filter are flagged as possible copies of training views.",
        "One seed",
        "Pretraining on labelled views",
        "The copy audit&#39;s false-alarm rate cannot be certified",
        "The copy audit misses most planted copies of these kinds",
    ]
    assert "a clinician decided 2 views of them and agrees with the original label in 50 %" in text


def test_the_warning_of_the_shortcut_audit_is_repeated_with_a_link(study: Path) -> None:
    write_csv(shortcuts(size=0.0213, overlay=0.0005), study / "shortcuts.csv")
    _, text = make(study)
    warnings = text.partition("Before you quote")[2].partition("</section>")[0]
    assert (
        "<li>Whether a patient is pos can be told from what is no tissue: size and aspect of the frame (AUROC 0.56, "
        'p = 0.021); callipers and text (AUROC 0.71, p &lt; 0.001). <a href="shortcuts.html">Shortcuts</a></li>'
    ) in warnings


def test_a_study_without_held_out_patients_has_a_page_that_says_so(study: Path) -> None:
    write_json({"possible": False, "views": 60}, study / "privacy.json")
    _, text = make(study)
    assert "The audit for copies was not possible: no patient was held out." in text
    assert "could not be audited for copies of training views" in text
    assert "generated views before the manifold filter" in text


def test_positions_and_ticks() -> None:
    assert [position(value, 20) for value in (-20, 0, 10, 250)] == ["0.00%", "50.00%", "75.00%", "100.00%"]
    assert ticks(1.08) == [-1, 0, 1]
    assert ticks(20.6) == [-20, -10, 0, 10, 20]
    assert ticks(100) == [-100, -50, 0, 50, 100]


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    mark = Mark("UD", 71.0, -0.001, -250.0, 40.0, 0.5, float("nan"), False, False)
    shown = row_of(mark, 100)
    assert (shown["low"], shown["high"], shown["arrows"]) == ("0.00%", "70.00%", ["left"])
    assert shown["interval"] == "+0.00 (−250.00 to 40.00)"
    assert row_of(replace(mark, low=float("nan"), high=float("nan")), 100)["arrows"] == []
    assert row_of(replace(mark, high=100.5), 100)["arrows"] == ["left", "right"]


def test_tables_of_external_tests_are_told_from_the_studys() -> None:
    titles = {"b": "Hospital B"}
    assert page_name(Path("tables/table2.html"), titles) == "Table 2"
    assert page_name(Path("tables/external/b/table2.html"), titles) == "Table 2, external test on Hospital B"
    assert page_name(Path("tables/external/c/table2.html"), titles) == "Table 2, external test on c"
    assert page_name(Path("tables/operating_points.html"), titles) == "Operating points"


def test_pictures_need_names(study: Path) -> None:
    with pytest.raises(UserError, match="--names names 1 pictures, --figures 4"):
        make(study, "--names", "one")


@needs_chromium
def test_the_page_in_a_browser(study: Path) -> None:
    page, _ = make(study, "--origin", "PHANTOM")
    with Chromium(study / "profile", study) as browser:
        browser.open(page)
        for width, height in ((1280, 900), (390, 844)):
            browser.send(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 500,
            )
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.text("tbody tr:first-child th").startswith(HOSTILE)
            assert "UD" in browser.text("table")
            assert browser.evaluate("[...document.images].every((image) => image.naturalWidth === 1000)")
            # axe-core's rules for people who cannot see, or see little.
            browser.evaluate(AXE.read_text(encoding="utf-8"))
            browser.evaluate("delete window.found; axe.run().then((result) => (window.found = result)); 0")
            browser.wait("window.found")
            faults = browser.evaluate("found.violations.map((fault) => [fault.impact, fault.id, fault.nodes[0].html])")
            assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []
            assert browser.evaluate("found.passes.length") > 20
        assert browser.evaluate("getComputedStyle(document.querySelector('td.wide')).display") == "none"
        printed = base64.b64decode(browser.send("Page.printToPDF")["data"])
        assert 1 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) <= 3
        assert browser.errors == []
        assert {address for address in browser.requests if not address.startswith("data:")} == {page.as_uri()}
