"""The layout: a folder per stage of the paper, and imports that run one way."""

import ast
import re

import pytest

from tests.shared import REPOSITORY, stages

PACKAGE = REPOSITORY / "workflow_scripts"
# A folder imports only itself and folders before it.
ORDER = (
    "core", "study", "runtime", "networks", "data", "audit", "diffusion", "synthesis", "privacy", "pretraining",
    "finetuning", "classifier", "tables", "tools",
)  # fmt: skip


def imported(file) -> set[str]:
    """The folders of workflow_scripts that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            modules += [node.module or ""]
            assert node.module != "workflow_scripts", f"{file}: import from a folder's modules, not from the package"
        names |= {module.split(".")[1] for module in modules if module.startswith("workflow_scripts.")}
    return names


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_itself_and_folders_before_it(folder: str):
    allowed = set(ORDER[: ORDER.index(folder) + 1])
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        assert imported(file) <= allowed, file


def test_the_package_holds_these_folders_and_no_loose_scripts():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ORDER)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py"}


def test_tests_are_kept_by_folder():
    folders = {path.name for path in (REPOSITORY / "tests/unit").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ORDER)


@pytest.mark.parametrize("stage", stages())
def test_every_stage_is_a_plain_command(stage: str):
    text = PACKAGE.joinpath(*stage.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert "run(main, parser())" in text


def rules() -> dict[str, tuple[str, str]]:
    """File and text of every rule that runs a stage, by its name."""
    found = {}
    for file in sorted((REPOSITORY / "rules").glob("*.smk")):
        text = file.read_text(encoding="utf-8")
        for block in re.split(r"^ *(?=rule \w+:$)", text, flags=re.MULTILINE)[1:]:
            if "**stage(" in block:
                found[block.partition(":")[0].removeprefix("rule ")] = (file.stem, block)
    return found


def test_rule_script_log_and_file_have_one_name():
    assert len(rules()) > 45
    for name, (file, block) in rules().items():
        assert re.search(rf'\*\*stage\(\s*"{file}\.{name}"', block), f"{name} runs another script"
        assert re.search(rf'log_of\("{name}\b', block), f"{name} has a log of another name"
        assert "shell:\n" in block
        assert '"{params.command} --log {log:q}"' in block
        assert (PACKAGE / file / f"{name}.py").is_file()
