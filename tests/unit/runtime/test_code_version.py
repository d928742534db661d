"""The code fingerprint: blind to words, awake to meaning."""

from pathlib import Path

import pytest

from workflow_scripts.runtime import code_version as module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "workflow_scripts"
    (folder / "training").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "training" / "__init__.py").touch()
    (folder / "stage.py").write_text(
        '"""A stage."""\nfrom workflow_scripts.runtime.cli import say\n\n\n'
        "def main():\n    from workflow_scripts.training.loss import f\n\n"
        '    say("hello")\n    return f(1)\n'
    )
    (folder / "training" / "loss.py").write_text("def f(x):\n    return 2 * x\n")
    (folder / "plot.py").write_text("def draw():\n    return 1\n")
    monkeypatch.setattr(module, "PACKAGE", folder)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return folder


def version() -> str:
    for function in (module.code_version, module._read):
        function.cache_clear()
    return module.code_version("stage")


def test_words_do_not_count(package: Path):
    before = version()
    stage = package / "stage.py"
    stage.write_text(
        stage.read_text().replace("A stage.", "Another text.").replace("hello", "hi") + "\n\n# a comment\n"
    )
    loss = package / "training" / "loss.py"
    loss.write_text('def f(x):\n    """Doubles."""\n    return (\n        2 * x\n    )\n')
    (package / "plot.py").write_text("def draw():\n    return 2\n")
    assert version() == before


def test_an_imported_modules_meaning_counts(package: Path):
    before = version()
    (package / "training" / "loss.py").write_text("def f(x):\n    return 3 * x\n")
    assert version() != before


def test_an_unknown_stage_is_an_error(package: Path):
    with pytest.raises(FileNotFoundError):
        module.code_version("nothing")


def test_the_models_of_settings_are_no_part_of_a_fingerprint_but_the_names_of_sets_are():
    assert {name for name in module.reached_modules("finetune") if ".study.config" in name} == set()
    reached = module.reached_modules("crop")
    assert {name for name in reached if ".study.config" in name} == {"workflow_scripts.study.config.names"}
