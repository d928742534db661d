"""The site builds without a broken link, its reference is complete, and its commands exist."""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest
import yaml

from tests.chromium import Chromium, needs_chromium
from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.tools import documentation
from workflow_scripts.tools.documentation import NOT_RUN, RUN, artefacts, linked, marked, settings_page

PAGES = [
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *(REPOSITORY / path for path in documentation.ELSEWHERE.values()),
]
README = REPOSITORY / "README.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor, or a page outside the navigation, ends the build."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_the_site_is_built_and_searched_without_a_server(site: Path):
    assert "pseudonym" in (site / "search" / "search_index.js").read_text(encoding="utf-8").lower()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="https?:', text), page.name
        assert not re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="https?:', text), page.name


@needs_chromium
@pytest.mark.slow
@pytest.mark.nightly
def test_a_browser_shows_and_searches_the_site_from_the_disk(site: Path, tmp_path: Path):
    """At desk width: pictures are shown, a search finds, and nothing is asked of a server."""
    with Chromium(tmp_path / "profile", tmp_path, (1440, 1200)) as tab:
        for page in (site / "tutorial.html", site / "index.html"):
            tab.open(page)
            assert tab.evaluate("document.images.length") > 0
            assert tab.evaluate("[...document.images].filter(each => !each.naturalWidth).map(each => each.src)") == []
        tab.evaluate("document.querySelector('.md-search__input').focus()")
        tab.type("pseudonym")
        tab.wait("document.querySelector('.md-search-result__item') !== null")
        assert "pseudonym" in tab.text(".md-search-result__item").lower()
        assert [request for request in tab.requests if not request.startswith(("file:", "data:"))] == []
        assert tab.errors == []


def test_every_block_of_commands_on_the_site_says_whether_it_is_run(site: Path):
    titles = re.compile(r'<span class="filename">([^<]*)</span>')
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert text.count('class="language-bash highlight"') == len(titles.findall(text)), page.name
        assert set(titles.findall(text)) <= {RUN, NOT_RUN}


def test_the_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_readme_fits_one_screen():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 60


def test_links_follow_pages_that_lie_elsewhere():
    assert linked("[a](../CONTRIBUTING.md#x)", "docs/how-to/page.md", "how-to/page.md") == "[a](../CONTRIBUTING.md#x)"
    assert (
        linked("[a](../../CONTRIBUTING.md#x)", "docs/how-to/page.md", "how-to/page.md") == "[a](../contributing.md#x)"
    )
    assert linked("[a](docs/data.md)", "CONTRIBUTING.md", "contributing.md") == "[a](data.md)"
    assert linked("[a](https://x.org/y.md)", "docs/a.md", "a.md") == "[a](https://x.org/y.md)"


def test_indented_commands_are_titled_and_other_blocks_are_left_alone():
    page = "Text:\n\n    make demo   # eight minutes\n    cat table\n\n    data: {size: 3}\n\nMore.\n"
    assert (
        marked(page)
        == f'Text:\n\n```bash title="{NOT_RUN}"\nmake demo   # eight minutes\ncat table\n\ndata: {{size: 3}}\n```\n\nMore.\n'
    )
    assert marked("Text:\n\n    data: {size: 3}\n") == "Text:\n\n    data: {size: 3}\n"
    run = f'```bash title="{RUN}"\nmake lint\n```\n'
    assert marked(run) == run
    assert documentation.marked_commands(
        f"a\n{run}b\n{marked('```bash' + chr(10) + 'make test' + chr(10) + '```' + chr(10))}"
    ) == ["make lint\n"]


def test_the_reference_has_every_key_of_the_shipped_config():
    def keys(section: dict, prefix: str = "") -> Iterator[str]:
        for key, value in section.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict) and f"{prefix}{key}" not in named:
                yield from keys(value, f"{prefix}{key}.")

    named = {"data.crop_profiles", "initialisations", "pretraining.runs", "tables"}
    page = settings_page()
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    missing = [key for key in keys(config) if f"`{key}`" not in page]
    assert missing == []
    assert "| `manifold.recipe.filter_k` | whole number, ≥ 1 or `auto` |" in page


def test_the_reference_has_the_outputs_of_every_rule():
    rules = set()
    for file in (REPOSITORY / "rules").glob("*.smk"):
        parts = re.split(r"^ *rule (\w+):$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        rules |= {
            rule
            for rule, body in zip(parts[1::2], parts[2::2], strict=True)
            if re.search(r"^ +output:$", body, re.MULTILINE)
        }
    found = list(artefacts())
    assert {rule for _, _, rule in found} == rules - {"fetch_weights"}  # its file lies beside `results`
    assert ("views/{real_set}.npy", "store of views, uint8 .npy (N, side, side)", "crop_views") in [
        (path, content, rule) for path, content, rule in found
    ]
    assert sum(rule == "make_table" for _, _, rule in found) == 5
    assert sum(rule == "finetune" for _, _, rule in found) == 3


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command of a page: of its blocks, and of code within sentences."""
    blocks = re.findall(r"^```bash[^\n]*\n(.*?)^```$", marked(page), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:make|snakemake|python -m|snakedeploy) [^`]+)`", " ".join(page.split()))
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for operator, words in groupby(lexer, key=lambda word: set(word) <= set("();<>|&")):
            if not operator:
                # What follows -- is another command, as of show_progress, or the targets of Snakemake.
                for wrapped, part in groupby(words, key=lambda word: word == "--"):
                    if not wrapped:
                        yield list(part)


def problem(words: list[str], options: set[str], targets: set[str]) -> str:
    """What does not exist of a command: its program, an option or a target; "" if all does."""
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    if words[:2] == ["python", "-m"] and words[2].startswith(("workflow_scripts", "benchmarks")):
        if importlib.util.find_spec(words[2]) is None:
            return f"no module {words[2]}"
        module = importlib.import_module(words[2]) if words[2].startswith("workflow_scripts") else None
        if module is not None and hasattr(module, "parser"):
            return " ".join(asked - set(module.parser()._option_string_actions) - {"--help"})
    if words[0] == "make":
        made = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
        return " ".join(word for word in words[1:2] if word not in made)
    if words[0] == "snakemake":
        if unknown := asked - options:
            return " ".join(unknown)
        files = [following for word, following in pairwise(words) if word == "--configfile"]
        if missing := [file for file in files if not (REPOSITORY / file).exists() and file != "paper.yaml"]:
            return f"no file {missing[0]}"
        if words[1:2] and re.fullmatch(r"[a-z]+", words[1]):
            return "" if words[1] in targets else f"no target {words[1]}"
    return ""


def test_the_commands_of_every_page_exist():
    from snakemake.cli import get_argument_parser

    options = set(get_argument_parser()._option_string_actions)
    targets = {
        rule for file in (REPOSITORY / "rules").glob("*.smk") for rule in re.findall(r"rule (\w+):", file.read_text())
    }
    found = [(page.name, words) for page in [*PAGES, README] for words in commands(page.read_text(encoding="utf-8"))]
    assert len(found) > 80
    wrong = [(page, " ".join(words), why) for page, words in found if (why := problem(words, options, targets))]
    assert wrong == []
    # The check itself finds what is wrong.
    assert problem(shlex.split("python -m workflow_scripts.tools.plan --gpu 2"), options, targets) == "--gpu"
    assert problem(["make", "demos"], options, targets) == "demos"
    assert problem(["snakemake", "--corse", "2"], options, targets) == "--corse"


def test_a_command_that_fails_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import argparse

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(f'```bash title="{RUN}"\ntest -e page.md\n```\n')
    monkeypatch.setattr(documentation, "REPOSITORY", tmp_path)
    monkeypatch.setattr(documentation, "copy_repository", lambda folder: folder.parent)
    with pytest.raises(UserError, match=r"docs/page.md failed"):
        documentation.main(argparse.Namespace(pages=[]))
    with pytest.raises(UserError, match="no page docs/other.md"):
        documentation.main(argparse.Namespace(pages=["other"]))
