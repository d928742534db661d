"""docs/design.md says what each library is for, and the shipped file of weights is torchvision's."""

import re
import tomllib

import yaml
from torchvision.models import ResNet18_Weights

from tests.shared import REPOSITORY


def test_the_design_names_every_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    dependencies = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    _, _, section = (REPOSITORY / "docs" / "design.md").read_text().partition("## Libraries\n")
    rows = re.findall(r"^\| ([a-z][\w, -]+) \|", section.partition("\n## ")[0], re.MULTILINE)
    assert {name for row in rows if row != "library" for name in row.split(", ")} == dependencies


def test_the_imagenet_file_is_the_one_that_torchvision_names():
    start = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["initialisations"]["imagenet"]
    assert start["url"] == ResNet18_Weights.IMAGENET1K_V1.url
    assert start["file"].rpartition("/")[2] == start["url"].rpartition("/")[2]
