"""The house: imports run one way, entry points -> packages."""

import ast

import pytest

from tests.shared import REPOSITORY

PACKAGE = REPOSITORY / "workflow_scripts"
FOUNDATION = {"files", "errors", "cli", "study"}
# What each package may import of the others.
ALLOWED = {
    "study": set(),
    "imaging": set(),
    "training": {"imaging"},
    "diffusion": {"training"},
    "manifold": set(),
    "evaluation": set(),
}


def imported(file) -> set[str]:
    """The first-level names below workflow_scripts that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names |= {module.split(".")[1] for module in modules if module.startswith("workflow_scripts.")}
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package: str):
    for file in sorted((PACKAGE / package).rglob("*.py")):
        assert imported(file) <= FOUNDATION | ALLOWED[package] | {package}, file


def test_every_package_has_its_place():
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == set(ALLOWED)


def test_no_rule_computes_and_every_stage_is_a_plain_command():
    stages = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__", "cli", "errors", "files"}
    for stage in stages:
        text = (PACKAGE / f"{stage}.py").read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in text, stage
        assert "run(main, parser())" in text, stage
