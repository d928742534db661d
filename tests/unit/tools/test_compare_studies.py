"""The table of studies."""

from tests.shared import REPOSITORY
from workflow_scripts.tools import compare_studies as tool


def test_the_page_holds_the_table_of_the_files(tmp_path):
    """Changed by hand, or not made again after a change of a study: python -m workflow_scripts.tools.compare_studies."""
    page = (REPOSITORY / "docs" / "paper.md").read_text()
    copy = tmp_path / "paper.md"
    copy.write_text(page)
    flags = ["--config", f"{REPOSITORY}/config.yaml", "--studies", f"{REPOSITORY}/studies", "--page", f"{copy}"]
    tool.main(tool.parser().parse_args(flags))
    assert copy.read_text() == page


def test_a_row_is_what_the_studies_change(tmp_path):
    shipped = REPOSITORY / "config.yaml"
    for name, text in (
        (
            "a",
            "diffusion: {holdout_patients: 0, select: last}\nrelease: {without_audit: true}\n"
            "manifold: {recipe: {filter_rule: neighbours}}\nfolds: 3",
        ),
        ("b", "folds: 5\npretraining: {runs: {ud: {init: imagenet}, xg: {init: imagenet}}}"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    lines = tool.table(shipped, {name: tmp_path / f"{name}.yaml" for name in "ab"}).splitlines()
    assert "| `folds` | 3 | 3 | 5 |" in lines
    assert "| `pretraining.runs.*.init` | scratch | scratch | imagenet |" in lines
    assert "| `release.without_audit` | false | true | false |" in lines
