"""What the generator of the Snakemake workflow catalogue reads of a repository before it lists it with its usage.

Its other checks are `snakemake --lint` and `snakefmt --check`, which `make lint` runs.
"""

import re

import yaml

from tests.shared import REPOSITORY


def test_the_catalogue_finds_the_workflow_its_rules_and_its_readme():
    # Found by these words; the Snakefile is looked for in workflow/, and a folder of rules there needs files *.smk.
    assert "snakemake workflow" in (REPOSITORY / "README.md").read_text(encoding="utf-8").lower()
    assert (REPOSITORY / "workflow" / "Snakefile").is_file()
    assert not (REPOSITORY / "workflow" / "rules").exists()
    assert {file.suffix for file in (REPOSITORY / "rules").iterdir()} == {".smk"}


def test_the_usage_is_standardised():
    text = (REPOSITORY / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8")
    usage = yaml.safe_load(text)["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert usage["software-stack-deployment"].keys() == {"conda", "apptainer", "apptainer+conda"}
    assert {*map(type, usage["software-stack-deployment"].values()), type(usage["report"])} == {bool}
    # The page shows config/README.md below a title of its own.
    readme = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^# ", readme, re.MULTILINE)) == 1
