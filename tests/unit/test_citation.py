"""The files that name the software agree, and use the words of their formats.

They are pyproject.toml, CITATION.cff, codemeta.json and CHANGELOG.md.
"""

import json
import tomllib
from datetime import date

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


# Keys of the Citation File Format 1.2.0, and terms of CodeMeta 2.0 with those of schema.org that it takes over.
CITATION = (
    "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message"
    " preferred-citation references repository repository-artifact repository-code title type url version"
)
CODEMETA = (
    "applicationCategory applicationSubCategory downloadUrl fileSize installUrl memoryRequirements operatingSystem permissions"
    " processorRequirements releaseNotes softwareHelp softwareRequirements softwareVersion storageRequirements"
    " supportingData author citation contributor copyrightHolder copyrightYear dateCreated dateModified datePublished editor"
    " encoding fileFormat funder keywords license producer provider publisher sponsor version isAccessibleForFree isPartOf"
    " hasPart position description identifier name sameAs url relatedLink codeRepository programmingLanguage runtimePlatform"
    " targetProduct softwareSuggestions maintainer contIntegration buildInstructions developmentStatus embargoDate funding"
    " issueTracker referencePublication readme"
)


def test_the_citation_and_codemeta_use_the_words_of_their_formats():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "cff-version", "message", "title"} <= citation.keys() <= set(CITATION.split())
    assert citation["type"] == "software"
    for reference in citation["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
        assert "name" in reference["conference"]
    meta = json.loads((REPOSITORY / "codemeta.json").read_text(encoding="utf-8"))
    assert (meta["@context"], meta["@type"]) == ("https://doi.org/10.5063/schema/codemeta-2.0", "SoftwareSourceCode")
    assert {key for key in meta if not key.startswith("@")} <= set(CODEMETA.split())


def test_the_date_of_the_release_is_the_changelogs():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    released: date = citation["date-released"]
    heading = f"\n## {citation['version']} ({released.day} {released:%B %Y})"
    assert heading in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
