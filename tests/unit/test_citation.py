"""The files that name the software agree: pyproject.toml, CITATION.cff, codemeta.json, CHANGELOG.md."""

import json
import tomllib

import yaml

from tests.shared import REPOSITORY


def test_name_version_licence_description_and_authors_agree():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    meta = json.loads((REPOSITORY / "codemeta.json").read_text(encoding="utf-8"))
    assert project["version"] == citation["version"] == meta["version"]
    assert f"\n## {project['version']} (" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (project["name"], project["description"]) == (meta["name"], meta["description"])
    assert meta["license"] == f"https://spdx.org/licenses/{project['license']}"
    assert citation["license"] == project["license"]
    assert [each["name"] for each in meta["author"]] == [each["name"] for each in citation["authors"]]
    assert meta["referencePublication"]["name"] == citation["references"][0]["title"]
