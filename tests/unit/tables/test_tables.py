"""Tables: their numbers, layout, escapes, captions, and the stages that make them."""

import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.shared import REPOSITORY
from tests.unit.finetuning.test_metrics import CLASSES, predictions
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_json
from workflow_scripts.core.statistics import corrected_paired_test, holm
from workflow_scripts.core.tables import Table, html_page, latex, markdown, p_value, plus_minus
from workflow_scripts.finetuning import predict_baseline
from workflow_scripts.study.config import BASELINES, load_config
from workflow_scripts.study.paper import paper_rows
from workflow_scripts.study.protocol import metric_facts
from workflow_scripts.tables import make_generation_table as generation_table
from workflow_scripts.tables import make_table as table
from workflow_scripts.tables.aggregation import aggregate, run_scores
from workflow_scripts.tables.rows import Row, short_count
from workflow_scripts.tables.tables import (
    HEADERS,
    REFERENCES,
    SHOWN,
    choose_reference,
    layout,
    notes,
    numbers,
    paper_numbers,
    patient_counts,
)

NASTY = "50 % & <b>x_1</b> #2 $y$ {z} ~ ^ \\ | * `c` “q” ±"


class Cells(HTMLParser):
    """Text of every cell of an HTML table, row by row, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def example(**changes) -> Table:
    """A table with everything that needs care."""
    values = {
        "label": "x", "title": NASTY, "header": ("L_con", NASTY, "value"), "text_columns": 2, "notes": (NASTY,),
        "rows": (("Xgf", NASTY, "1.00 ± 0.10"), ("[a]", "b", "–")), "rules": (1,),
    }  # fmt: skip
    return Table(**(values | changes))


def test_html_escapes_and_loads_nothing() -> None:
    page = html_page(example(origin="PHANTOM"))
    cells = Cells(page)
    assert cells.rows == [["Lcon", NASTY, "value"], ["Xgf", NASTY, "1.00 ± 0.10"], ["[a]", "b", "–"]]
    assert "b" not in cells.tags
    assert not cells.tags & {"script", "link", "img"}
    assert "PHANTOM" in page
    assert "PHANTOM" not in html_page(example())


def test_latex_escapes() -> None:
    text = latex(example(header=("L_con", "a", "b"), rows=(("Xg", NASTY, "1 ± 2"), ("[a]", "c", "–")), title="t"))
    assert r"50 \% \& \textless{}b\textgreater{}x\_1" in text
    assert r"\#2 \$y\$ \{z\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textbar{}" in text
    assert r"$X_g$" in text
    assert "\\midrule\n{[a]} & c & --" in text
    plain = re.sub(r"\\[\\%&#$_{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert all(ord(c) < 128 for c in text)


def test_markdown_escapes() -> None:
    lines = markdown(example()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {4}
    assert "<" not in "".join(rows)
    assert rows[1] == "| :--- | :--- | ---: |"
    assert markdown(example(origin="PHANTOM")).startswith("> **PHANTOM")


def test_rows_must_fit_the_header() -> None:
    with pytest.raises(ValueError, match="one cell per column"):
        example(rows=(("a", "b"),))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
@pytest.mark.parametrize("columns", [3, 12])
def test_latex_compiles(tmp_path, columns: int) -> None:
    nasty = [NASTY] * (columns - 1)
    wide = example(header=("L_con", *nasty), rows=(("Xgf", *nasty), tuple("[abcdefghijk"[:columns])))
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
        + latex(wide)
        + r"\listoftables\end{document}"
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_number_texts() -> None:
    assert plus_minus(83.888, 2.151) == "83.89 ± 2.15"
    assert plus_minus(83.888, math.nan) == "83.89 ± –"
    assert plus_minus(math.nan, math.nan) == "–"
    assert [p_value(p) for p in (0.0004, 0.0123, 1.0, math.nan)] == ["<0.001", "0.012", "1.000", "–"]
    assert [short_count(n) for n in (880, 1664, 24126, 25790, 1_281_167)] == [
        "880",
        "1.66K",
        "24.13K",
        "25.79K",
        "1.28M",
    ]


def study() -> tuple[list[Row], dict[str, pd.DataFrame]]:
    """Three experiments on the same views, and a baseline."""
    base = predictions(seeds=3, patients=24)
    tables = {"scratch-flipped": base}
    for i, name in enumerate(("ud-flipped", "majority-flipped"), start=1):
        other = predictions(seeds=3, patients=24, seed=i)
        tables[name] = base.assign(probability=other["probability"], prediction=other["prediction"])
    rows = [
        Row("none (scratch)", "scratch-flipped", "scratch", paper="scratch"),
        Row("UD", "ud-flipped", "ud", "25.79K", paper="ud"),
        Row("majority class", "majority-flipped", "majority"),
    ]
    return rows, tables


def test_numbers() -> None:
    rows, tables = study()
    values = numbers(rows, tables, "pos", "released", "UD").set_index("name")
    assert list(values.index) == [row.name for row in rows]
    assert set(values["label_policy"]) == {"flipped"}
    scored = {name: run_scores(tables[name], "pos", "policy") for name in tables}
    tests = {}
    for row in rows:
        expected = aggregate(scored[row.experiment], "released")
        for metric, (mean, std) in expected.items():
            assert values.loc[row.name, f"{metric}_mean"] == pytest.approx(100 * mean)
            assert values.loc[row.name, f"{metric}_std"] == pytest.approx(100 * std)
        original = aggregate(run_scores(tables[row.experiment], "pos", "original"), "released")
        assert values.loc[row.name, "f1_original_mean"] == pytest.approx(100 * original["f1"][0])
        difference = scored[row.experiment]["accuracy"] - scored["ud-flipped"]["accuracy"]
        tests[row.name] = corrected_paired_test(difference.to_numpy(), 3).p
        low, high = values.loc[row.name, ["accuracy_ci_low", "accuracy_ci_high"]]
        pooled = np.divide(*(counts.sum() for counts in patient_counts(tables[row.experiment])))
        assert low < 100 * pooled < high
    others = ["none (scratch)", "majority class"]
    assert values.loc[others, "p_value"].tolist() == pytest.approx([tests[name] for name in others])
    assert values.loc[others, "p_corrected"].tolist() == pytest.approx(holm(np.array([tests[name] for name in others])))
    assert values.loc["UD", ["difference_mean", "p_value", "p_corrected"]].isna().all()
    one = tables["scratch-flipped"][tables["scratch-flipped"]["seed"] == 0]
    kept = one[one["kept"] == 1]
    assert values.loc["UD", "views"] == len(kept) < len(one)
    assert values.loc["UD", "relabelled"] == (kept["label_policy"] != kept["label_original"]).sum() > 0
    assert values.loc["UD", "positives"] == (kept["label_policy"] == "pos").sum()


def test_repeated_pretrainings_enter_the_test_of_rows_that_have_them() -> None:
    rows, tables = study()
    rows[1] = replace(rows[1], is_pretrained=True)
    once, twice = (numbers(rows, tables, "pos", "released", "UD", seeds).set_index("name") for seeds in (1, 2))
    scored = {name: run_scores(tables[name], "pos", "policy")["accuracy"] for name in tables}
    difference = 100 * (scored["scratch-flipped"] - scored["ud-flipped"])
    starts = np.array([seed % 2 for seed, _ in difference.index])
    expected = corrected_paired_test(difference.to_numpy(), 3, starts)
    assert twice.loc["none (scratch)", "p_value"] == pytest.approx(expected.p)
    against_scratch = [
        numbers(rows, tables, "pos", "released", "none (scratch)", seeds).set_index("name").loc["majority class"]
        for seeds in (1, 2)
    ]
    assert against_scratch[0].equals(against_scratch[1])
    assert once["accuracy_mean"].equals(twice["accuracy_mean"])
    caption = notes("table2", rows, tables, twice.reset_index(), "pos", "released", "none", "UD", 2)
    assert any("with 2 seeds" in sentence for sentence in caption)


def test_patient_counts_by_a_slow_loop() -> None:
    frame = predictions(seeds=2, patients=6)
    correct, views = patient_counts(frame)
    kept = frame[frame["kept"] == 1]
    pairs = itertools.product(enumerate(sorted(set(kept["patient_id"]))), enumerate((0, 1)))
    for (i, patient), (j, seed) in pairs:
        mine = kept[(kept["patient_id"] == patient) & (kept["seed"] == seed)]
        assert views[i, j] == len(mine)
        assert correct[i, j] == (mine["prediction"] == mine["label_policy"]).sum()


def test_rows_with_other_labels_are_compared_on_the_original_ones() -> None:
    rows, tables = study()
    flipped = tables["ud-flipped"]
    # The same predictions, scored by a policy that agrees with every one of them: bookkeeping, no gain.
    tables["ud-flipped"] = tables["scratch-flipped"].assign(
        label_policy=tables["scratch-flipped"]["prediction"], kept=1
    )
    values = numbers(rows, tables, "pos", "runs", "none (scratch)")
    ud = values.set_index("name").loc["UD"]
    assert ud["accuracy_mean"] == 100
    assert ud["difference_mean"] == 0
    assert ud["p_value"] == 1
    caption = notes("table1", rows, tables, values, "pos", "runs", "none", "none (scratch)")
    assert any("on the original labels of all views, Holm" in note for note in caption)
    tables["ud-flipped"] = flipped
    values = numbers(rows, tables, "pos", "runs", "none (scratch)")
    caption = notes("table1", rows, tables, values, "pos", "runs", "none", "none (scratch)")
    assert any("folds × seeds, Holm" in note for note in caption)


def test_caption_says_what_must_be_known() -> None:
    rows, tables = study()
    values = numbers(rows, tables, "pos", "seeds", "UD")
    text = " ".join(notes("table2", rows, tables, values, "pos", "seeds", "none", "UD"))
    views = tables["ud-flipped"]["view_id"].nunique()
    for part in (
        "3 folds × 3 seeds of 24 patients", f"{views} views", "pos is the positive class", "over the seeds' fold means",
        "Label policy: flipped", "saw the pixels, not the labels", "exceeds 0.5", "(UD)", "Nadeau-Bengio", "Holm",
        "Critical reading",
    ):  # fmt: skip
        assert part in text
    assert "bookkeeping" not in text
    assert "bookkeeping" in " ".join(notes("table1", rows, tables, values, "pos", "seeds", "none", "UD"))
    by_scanner = notes("table2", rows, tables, values, "pos", "seeds", "none", "UD", split_by="scanner")
    assert "Each fold is one scanner, left out in turn" in " ".join(by_scanner)
    assert "Neither pretraining" in " ".join(notes("table2", rows, tables, values, "pos", "seeds", "per_fold", "UD"))
    for holdout, told in (
        ("none", "learnt the original labels of the test patients"),
        ("per_fold", "a generator of its own"),
    ):
        text = " ".join(notes("table5", rows, tables, values, "pos", "seeds", holdout, "UD"))
        assert told in text.replace("also ", "")
        assert "tested on real views alone" in text


def test_reference_row() -> None:
    rows = [
        Row("a", "a-x", "a"),
        Row("our mix", "ud-x", "ud", paper="ud"),
        # A name alone says nothing: another row may be called like the paper's.
        Row("UD", "c-x", "c"),
        Row("majority", "majority-x", "majority"),
    ]
    assert choose_reference("table2", rows) == "our mix"
    assert choose_reference("table4", rows) == "UD"
    assert choose_reference("table4", rows[-1:]) == "majority"
    assert choose_reference("table5", rows) == next(row.name for row in rows if not row.is_baseline)


def test_layout_of_switches() -> None:
    rows, tables = study()
    switches = [{"L_con": "yes", "L_sup": "no", "lambda": "0.0"}, {"L_con": "yes", "L_sup": "yes", "lambda": "0.2"}]
    rows = [
        Row(row.name, row.experiment, row.init, switches=words)
        for row, words in zip(rows, [*switches, {"L_con": "no", "L_sup": "no", "lambda": "–"}], strict=True)
    ]
    values = numbers(rows, tables, "pos", "released", "UD")
    page = layout("table4", rows, values, "UD", [], "")
    assert page.header == ("L_con", "L_sup", "lambda", "accuracy", "F1", "accuracy, 95 % CI", "p")
    assert [row[:3] for row in page.rows] == [("yes", "no", "0.0"), ("yes", "yes", "0.2"), ("majority class", "–", "–")]
    assert page.rows[1][-1] == "ref."
    assert page.rules == (2,)
    # Two networks with the same switches need their names.
    twins = [Row(row.name, row.experiment, row.init, switches=switches[0]) for row in rows]
    page = layout("table4", twins, values, "UD", [], "")
    assert page.header[:4] == ("pretraining", "L_con", "L_sup", "lambda")
    assert [row[0] for row in page.rows] == ["none (scratch)", "UD", "majority class"]


def test_the_papers_numbers() -> None:
    assert {name: len(paper_numbers(name)) for name in (*SHOWN, "generation")} == {
        "table1": 3, "table1_protocols": 0, "table2": 6, "table3": 6, "table4": 6, "table5": 0, "generation": 2,
    }  # fmt: skip
    ud = [paper_numbers(name).loc[REFERENCES[name]] for name in ("table2", "table3", "table4")]
    assert all(row["accuracy_mean"] == 86.78 and row["f1_std"] == 1.55 for row in ud)
    assert paper_numbers("table2").loc["uscl", "precision_mean"] == 47.37
    for name, shown in SHOWN.items():
        if name in ("table1_protocols", "table5"):
            continue
        assert set(paper_numbers(name).columns) == {f"{m}_{s}" for m in shown for s in ("mean", "std")}
        # F1 lies between the least and the largest that precision and recall allow (it is a mean of runs).
        if "precision" in shown:
            paper = paper_numbers(name)
            harmonic = 2 / (1 / paper["precision_mean"] + 1 / paper["recall_mean"])
            assert (harmonic - paper["f1_mean"]).abs().max() < 1.5


def test_the_shipped_config_repeats_the_papers_rows_under_their_names() -> None:
    config = load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8")), [])
    for name in REFERENCES:
        ours = {row["paper"]: row["name"] for row in config["tables"][name]["rows"] if "paper" in row}
        assert ours == paper_rows(name)
        assert set(paper_numbers(name).index) <= set(ours)
        assert REFERENCES[name] in ours


def test_the_demo_has_the_papers_reference_rows() -> None:
    demo = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8"))["tables"]
    for name, reference in REFERENCES.items():
        assert reference in [row.get("paper") for row in demo[name]["rows"]]


def test_baselines_are_those_of_the_config() -> None:
    actions = {action.dest: action for action in predict_baseline.parser()._actions}
    assert actions["baseline"].choices == BASELINES


def test_the_caption_reads_the_tables_own_numbers() -> None:
    rows, tables = study()
    values = numbers(rows, tables, "pos", "seeds", "UD")
    caption = notes("table2", rows, tables, values, "pos", "seeds", "none", "UD")
    found = [note for note in caption if note.startswith("Critical reading, on the shared labels")]
    difference = values.set_index("name").loc["none (scratch)", "difference_mean"]
    assert f"the {abs(difference):.2f} points of accuracy between none (scratch) and UD" in found[0]
    assert len(found) == 1


def make(tmp_path: Path, rows: list[dict], *words: str) -> dict[str, str]:
    """Run the stage on the example study; the texts of its outputs by suffix."""
    _, tables = study()
    files = []
    for name, frame in tables.items():
        for seed, part in frame.groupby("seed"):
            files.append(tmp_path / f"{name}_{seed}.csv")
            write_csv(part, files[-1])
    outputs = {suffix: tmp_path / f"out.{suffix}" for suffix in ("csv", "md", "tex", "html")}
    arguments = [
        "--rows", json.dumps(rows), "--experiments", *tables, "--predictions", *map(str, files), "--classes", *CLASSES,
        *words, *itertools.chain.from_iterable((f"--output-{suffix}", str(path)) for suffix, path in outputs.items()),
    ]  # fmt: skip
    table.main(table.parser().parse_args(arguments))
    return {suffix: path.read_text(encoding="utf-8") for suffix, path in outputs.items()}


def table2(tmp_path: Path) -> list[dict]:
    """Rows of table 2 as the rules pass them."""
    write_json({"views": 25790}, tmp_path / "parameters.json")
    parameters = str(tmp_path / "parameters.json")
    return [
        {
            "name": "none (scratch)", "paper": "scratch", "experiment": "scratch-flipped", "init": "scratch",
            "samples": "–",
        },
        {"name": "UD", "paper": "ud", "experiment": "ud-flipped", "init": "ud", "parameters": parameters},
        {"name": "majority class", "experiment": "majority-flipped", "init": "majority"},
    ]  # fmt: skip


def test_another_name_of_a_row_changes_nothing_but_the_name(tmp_path) -> None:
    rows = table2(tmp_path)
    # In another order, so that the reference is not the last network either.
    rows = [rows[1], rows[0], rows[2]]
    texts = make(tmp_path, rows, "--table", "table2", "--reference-numbers")
    assert "86.78 ± 2.21" in texts["md"]
    assert "marked ref. (UD)" in texts["md"]
    renamed = make(tmp_path, [{**rows[0], "name": "our mix"}, *rows[1:]], "--table", "table2", "--reference-numbers")
    assert {suffix: re.sub(r"\bUD\b", "our mix", text) for suffix, text in texts.items()} == renamed


def test_stage(tmp_path) -> None:
    rows = table2(tmp_path)
    texts = make(tmp_path, rows, "--table", "table2", "--reference-numbers")
    values = read_csv(tmp_path / "out.csv")
    assert values["name"].tolist() == [row["name"] for row in rows]
    assert values["paper_accuracy_mean"].tolist() == pytest.approx([73.93, 86.78, math.nan], nan_ok=True)
    assert values["samples"].tolist() == ["–", "25.79K", "–"]
    cells = Cells(texts["html"]).rows
    shown = [HEADERS[metric] for metric in SHOWN["table2"]]
    assert cells[0] == [
        "pretraining", "samples", *shown, "accuracy, 95 % CI", "p", *(f"{name} (paper)" for name in shown),
    ]  # fmt: skip
    ud = values.iloc[1]
    assert cells[2][:3] == ["UD", "25.79K", f"{ud['accuracy_mean']:.2f} ± {ud['accuracy_std']:.2f}"]
    assert cells[2][8:10] == ["86.78 ± 2.21", "73.17 ± 1.55"]
    assert cells[3][8:] == ["–"] * 4
    # Calibration is among the numbers, on both labels, but not among the columns.
    assert values[["ece_mean", "ece_std", "brier_mean", "brier_original_mean"]].notna().all(axis=None)
    for text in (texts["html"], texts["md"], texts["tex"]):
        assert "on their own data" in text
        assert "PHANTOM" not in text
    assert "Table 2: Pretraining strategies" in texts["md"]
    assert "Table 2" not in texts["tex"]


def test_stage_marks_phantoms(tmp_path) -> None:
    rows = [{"name": "UD", "experiment": "ud-flipped", "init": "ud"}]
    forest = tmp_path / "forest.png"
    texts = make(tmp_path, rows, "--table", "table1", "--origin", "PHANTOM", "--output-figure", str(forest))
    assert all("PHANTOM" in text for text in texts.values())
    assert Image.open(forest).size[0] > 900
    assert "F1, original" in texts["html"]


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([], [], "needs at least one row"),
        ([{"name": "x"}], [], "row 0: name and experiment are needed"),
        ([{"name": "x", "experiment": "y"}], [], "no predictions for the experiment y; there are scratch-flipped"),
    ],
)
def test_stage_refuses(tmp_path, rows: list[dict], words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, rows, "--table", "table2", *words)


def test_one_seed(tmp_path) -> None:
    rows, tables = study()
    single = {name: frame[frame["seed"] == 0] for name, frame in tables.items()}
    values = numbers(rows, single, "pos", "released", "UD")
    assert values["accuracy_std"].notna().all()
    assert values["f1_std"].isna().all()
    page = layout("table2", rows, values, "UD", [], "")
    assert all(re.fullmatch(r"\d+\.\d\d ± –", row[3]) for row in page.rows)


def test_rows_against_published_activations_stand_beside_the_papers_numbers(tmp_path) -> None:
    """Views that others filtered: one set, no filtering to be read, and the paper's row beside both references."""
    rows = [
        (name, metric, batch, value)
        for name in ("filtered", "filtered_equal", "filtered_published")
        for metric, value in (("precision", 0.9), ("recall", 0.1), ("fid", 110.0))
        for batch in (0, 1, None)
    ] + [("filtered", "size", None, 50)]
    write_csv(
        pd.DataFrame(rows, columns=["set", "metric", "batch", "value"]).astype({"batch": "Int64"}), tmp_path / "m.csv"
    )
    write_csv(pd.DataFrame({"index": range(50), "inside": 1, "distance_ratio": 1.0}), tmp_path / "f.csv")
    words = [f"--output-{suffix}={tmp_path}/out.{suffix}" for suffix in ("csv", "md", "tex", "html")]
    words += [f"--metrics={tmp_path}/m.csv", f"--filter={tmp_path}/f.csv", "--reference-numbers"]
    generation_table.main(generation_table.parser().parse_args(words))
    cells = {row[0]: row[-3:] for row in Cells((tmp_path / "out.html").read_text(encoding="utf-8")).rows}
    printed = ["90.10 ± 4.70", "11.90 ± 3.25", "116.84 ± 4.12"]
    assert cells["filtered, published activations"] == cells["generated, filtered"] == printed
    notes = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert "The 50 views were filtered before they came" in notes
    assert "Rows of published activations" in notes
    assert "Critical reading" not in notes


@pytest.mark.parametrize("generators", [1, 2])
def test_generation_table(tmp_path, generators: int) -> None:
    metrics, filters = [], []
    for g in range(generators):
        rows = []
        for name, base, size in (("unfiltered", 0.7, 100), ("filtered", 0.9, 40), ("real", 0.8, 30)):
            for batch in range(3):
                rows += [
                    (name, "precision", batch, base + 0.01 * batch),
                    (name, "recall", batch, 0.2),
                    (name, "fid", batch, 100.0 + batch + g),
                ]
            rows += [(name, "precision", None, base), (name, "kid", None, 0.01), (name, "size", None, size)]
            rows += [(name, "kid_low", None, 0.005), (name, "kid_high", None, 0.02), (name, "mmd", None, 0.3)]
            rows += [(name, "fid_infinity", None, 98.765)] if name != "real" else []
        metrics.append(tmp_path / f"metrics{g}.csv")
        filters.append(tmp_path / f"filter{g}.csv")
        write_csv(
            pd.DataFrame(rows, columns=["set", "metric", "batch", "value"]).astype({"batch": "Int64"}), metrics[-1]
        )
        write_csv(
            pd.DataFrame({"index": range(100), "inside": [1] * 40 + [0] * 60, "distance_ratio": 1.0}), filters[-1]
        )
    outputs = {suffix: tmp_path / f"out.{suffix}" for suffix in ("csv", "md", "tex", "html")}
    words = itertools.chain.from_iterable((f"--output-{suffix}", str(path)) for suffix, path in outputs.items())
    arguments = ["--metrics", *map(str, metrics), "--filter", *map(str, filters), "--reference-numbers", *words]
    arguments += ["--holdout-protocol", "none" if generators == 1 else "per_fold"]
    curves = [tmp_path / f"curve{g}.csv" for g in range(generators)]
    for g, curve in enumerate(curves):
        write_csv(pd.DataFrame({"rule": ["neighbours"], "k": [30], "real_views": [700 + g], "scale": [1.0]}), curve)
    facts = metric_facts(load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8")), []))
    arguments += ["--curve", *map(str, curves), "--protocol", json.dumps(facts)]
    generation_table.main(generation_table.parser().parse_args(arguments))
    values = read_csv(outputs["csv"]).set_index("name")
    assert list(values.index) == ["unfiltered", "filtered", "real"]
    assert values.loc["filtered", "precision_mean"] == pytest.approx(91)
    fid = [100 + batch + g for g in range(generators) for batch in range(3)]
    assert values.loc["real", ["fid_mean", "fid_std"]].tolist() == pytest.approx([np.mean(fid), np.std(fid, ddof=1)])
    assert values["size"].tolist() == [100, 40, 30]
    assert values.loc["real", "kid_all"] == pytest.approx(0.01)
    protocol = (
        "saw the pixels, not the labels, of the test patients" if generators == 1 else "saw the test patients of a"
    )
    assert protocol in outputs["md"].read_text(encoding="utf-8")
    cells = Cells(outputs["html"].read_text(encoding="utf-8")).rows
    assert cells[0][:5] == ["set", "precision", "recall", "FID", "size"]
    assert cells[1][-3:] == ["79.68 ± 4.81", "25.00 ± 1.56", "119.84 ± 2.39"]
    assert cells[3][0] == "real, held-out patients"
    # Precisions differ by 20 points with 1 point of spread each; the recalls are all alike.
    reading = (
        "filtering changes precision by +20.00 points (beyond the spread over reference batches) and recall by +0.00 "
        "points (within the spread over reference batches)"
        + ("; conditional on one generator." if generators == 1 else ".")
    )
    assert f"Critical reading: {reading}" in outputs["md"].read_text(encoding="utf-8")
    interval = " (0.005 to 0.02)" if generators == 1 else ""
    notes = outputs["md"].read_text(encoding="utf-8")
    assert (
        f"KID against all real views: unfiltered 0.01{interval}, filtered 0.01{interval}, real 0.01{interval}" in notes
    )
    assert "MMD with a Gaussian kernel against all real views: unfiltered 0.3, filtered 0.3, real 0.3." in notes
    assert "extrapolated, against all real views: unfiltered 98.77, filtered 98.77." in notes
    size = "700" if generators == 1 else "700 to 701"
    assert f"rule calibrated, k = 50 of {size} real views, features of inception (input resized by clean)" in notes
    assert "Not comparable with the paper's numbers: 15% of the patients held out" in notes
    assert f"kept {40 * generators} of {100 * generators} generated views (40.0%)" in outputs["md"].read_text(
        encoding="utf-8"
    )


def test_a_caption_says_how_far_weights_moved_and_whether_the_loss_had_settled(tmp_path: Path):
    runs = {"ud": (0.01, 0.03), "imagenet": (0.2, 0.4)}
    files = []
    for name, moved in runs.items():
        for seed, value in enumerate(moved):
            training = {
                "seed": seed,
                "fold": 0,
                "weights_moved": value,
                "loss_before": 0.5,
                "loss_last": 0.25,
                "rate_factor": 1.0,
            }
            files.append(tmp_path / f"{name}{seed}.csv")
            write_csv(pd.DataFrame([training]), files[-1])
    rows = [Row("ImageNet", "imagenet"), Row("texture", "texture"), Row("UD", "ud")]
    sentence = table.movement(rows, list(runs), files)
    assert sentence.endswith("before): UD 2.00 % (0.250, −50.00 %); ImageNet 30.00 % (0.250, −50.00 %).")
    with pytest.raises(UserError, match="3 files for 2 experiments"):
        table.movement(rows, list(runs), files[:3])
    write_csv(read_csv(files[0]).assign(rate_factor=100.0), files[0])
    sentence = table.movement(rows, list(runs), files)
    assert sentence.endswith("inner split of the training patients: UD: factor 1 in 1, 100 in 1 of 2 trainings.")
    write_csv(read_csv(files[1]).drop(columns="rate_factor"), files[1])
    with pytest.raises(UserError, match=r"ud1.csv has no column 'rate_factor'"):
        table.movement(rows, list(runs), files)
