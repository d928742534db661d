"""Run the commands on the pages of docs/ that are marked as run; MkDocs takes the generated pages from here too.

python -m workflow_scripts.tools.documentation             run them, in a copy of the repository
python -m workflow_scripts.tools.documentation tutorial    those of one page

A command block whose title is "run by the build" is run, page by page, one shell per page. Every other command block is
shown with the title "not run by the build". The reference pages are generated from the models of the settings, the parsers
of the stages and the outputs of the rules.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import FILES
from workflow_scripts.runtime.cli import run, stage_parser

REPOSITORY = Path(__file__).parents[2]
RUN, NOT_RUN = "run by the build", "not run by the build"
FENCE = re.compile(r'^```bash title="run by the build"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PROGRAMS = (
    "apptainer|cat|conda|curl|echo|git|ls|make|pip|python|rsync|sbatch|scancel|sinfo|snakedeploy|snakemake|source|squeue|tail"
    "|tensorboard|uv"
)
# An indented block, not of a list, whose first line is a command.
INDENTED = re.compile(rf"(?<=\n\n)(?: {{4}}(?:{PROGRAMS}) .*\n(?:(?: {{4}}.*)?\n)*)")
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "code.md": "workflow_scripts/README.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("pages", nargs="*", help="names of pages below docs/, without .md (default: all)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Run the marked commands; the first that fails ends it."""
    docs = REPOSITORY / "docs"
    pages = {page.relative_to(docs).with_suffix("").as_posix(): page for page in sorted(docs.rglob("*.md"))}
    commands = {
        name: blocks for name, page in pages.items() if (blocks := marked_commands(page.read_text(encoding="utf-8")))
    }
    if unknown := sorted(set(arguments.pages) - set(commands)):
        raise UserError(f"no page docs/{unknown[0]}.md with commands that are run; pages: {', '.join(commands)}")
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_repository(Path(folder, "tusflow"))
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        for name, blocks in commands.items():
            if arguments.pages and name not in arguments.pages:
                continue
            say(f"docs/{name}.md: {len(blocks)} blocks of commands")
            script = "set -euxo pipefail\n" + "".join(blocks)
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=copy,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                raise UserError(f"a command of docs/{name}.md failed:\n{done.stdout[-4000:]}")


def marked_commands(page: str) -> list[str]:
    """The blocks of a page that are run."""
    return FENCE.findall(page)


def copy_repository(folder: Path) -> Path:
    """A copy of the files that Git knows or would add, as a newcomer has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name, follow_symlinks=False)
    return folder


# What MkDocs calls (mkdocs.yml, `hooks`).


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and those that lie outside docs/."""
    from mkdocs.structure.files import File

    pages = {name: (REPOSITORY / path).read_text(encoding="utf-8") for name, path in ELSEWHERE.items()}
    pages |= {
        "reference/settings.md": settings_page(),
        "reference/commands.md": commands_page(),
        "reference/artefacts.md": artefacts_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to where pages are on the site, and mark the commands that are not run."""
    here = Path(page.file.src_uri)
    source = ELSEWHERE.get(here.as_posix(), f"docs/{here.as_posix()}")
    return marked(linked(markdown, source, here.as_posix()))


def linked(markdown: str, source: str, page: str) -> str:
    """The text of the repository's file `source` with its links as the site's page `page` needs them."""
    targets = {path: name for name, path in ELSEWHERE.items()}

    def led(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = os.path.normpath(os.path.join(os.path.dirname(source), path))
        name = targets.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return f"]({os.path.relpath(name, os.path.dirname(page) or '.')}{anchor})" if name else match[0]

    return re.sub(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)", led, markdown)


def marked(markdown: str) -> str:
    """The page with a title on each block of commands that is not run."""

    def fenced(match: re.Match[str]) -> str:
        code = "".join(line[4:] or "\n" for line in match[0].rstrip("\n").splitlines(keepends=True))
        return f'```bash title="{NOT_RUN}"\n{code}\n```\n\n'

    markdown = re.sub(r"^```bash$", f'```bash title="{NOT_RUN}"', markdown, flags=re.MULTILINE)
    return INDENTED.sub(fenced, markdown)


# The generated pages.


def settings_page() -> str:
    """Every key of config.yaml."""
    from workflow_scripts.study.config.study import Study

    schema = Study.model_json_schema()
    lines = [
        "# Settings",
        "",
        "Every key of `config.yaml`, from the models in `workflow_scripts/study/config`. Unknown keys are refused.",
        "`<name>` is a name that you choose. Where a key is also a flag of a stage, [Commands](commands.md) lists it there.",
    ]
    for key, part in schema["properties"].items():
        rows = list(_settings(schema, key, part))
        lines += ["", f"## {key}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _settings(schema: Mapping[str, Any], key: str, part: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of a setting and of those below it."""
    inner = _resolved(schema, part)
    meaning = part.get("description") or inner.get("description", "")
    below = {f"{key}.{name}": value for name, value in inner.get("properties", {}).items()}
    patterned = [*inner.get("patternProperties", {}).values()]
    if isinstance(inner.get("additionalProperties"), Mapping):
        patterned.append(inner["additionalProperties"])
    below |= {f"{key}.<name>": value for value in patterned if value}
    items = _resolved(schema, inner.get("items", {}))
    if items.get("properties"):
        below |= {f"{key}[].{name}": value for name, value in items["properties"].items()}
    if below:
        yield f"`{key}`", "section" if not items else "list of sections", "", meaning
        for name, value in below.items():
            yield from _settings(schema, name, value)
    else:
        default = part.get("default", inner.get("default"))
        yield f"`{key}`", _type(schema, inner), "" if default is None else f"`{_written(default)}`", meaning


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def _type(schema: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    part = _resolved(schema, part)
    if "enum" in part:
        return ", ".join(f"`{_written(value)}`" for value in part["enum"])
    if "const" in part:
        return f"`{_written(part['const'])}`"
    for several in ("anyOf", "oneOf"):
        if several in part:
            return " or ".join(_type(schema, each) for each in part[several] if each.get("type") != "null")
    if part.get("type") == "array":
        return f"list of {_type(schema, part.get('items', {})) or 'values'}"
    bounds = [
        f"{sign} {part[name]}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in part and abs(part[name]) < 2**63
    ]
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "object": "section",
    }
    return ", ".join([words.get(part.get("type", ""), ""), *bounds]).strip(", ")


def _written(value: Any) -> str:
    import json

    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;" if "`" not in text else "<").split())


def stages() -> list[str]:
    """Every stage as `<folder>.<name>`: the modules of the package that are commands with a parser of this package."""
    package = REPOSITORY / "workflow_scripts"
    return sorted(
        ".".join(file.relative_to(package).with_suffix("").parts)
        for file in package.glob("*/*.py")
        if "\ndef parser()" in (text := file.read_text(encoding="utf-8")) and 'if __name__ == "__main__":' in text
    )


def commands_page() -> str:
    """The help of every stage."""
    lines = [
        "# Commands",
        "",
        "Every stage is a command, which its rule calls and which also runs by hand.",
        "`snakemake -n -p` prints the commands of a study. A folder of `workflow_scripts`",
        "is a section; these are the texts of `--help`.",
    ]
    folder = ""
    for stage in stages():
        if stage.partition(".")[0] != folder:
            folder = stage.partition(".")[0]
            lines += ["", f"## {folder}"]
        parser = importlib.import_module(f"workflow_scripts.{stage}").parser()
        parser.prog = f"python -m workflow_scripts.{stage}"
        lines += ["", f"### {stage.partition('.')[2]}", "", "```text", help_text(parser).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def help_text(parser: argparse.ArgumentParser) -> str:
    """A parser's help in lines of 100 characters, whatever the terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        return parser.format_help()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def artefacts() -> Iterator[tuple[str, str, str]]:
    """Path below `results`, content and rule of every output, in the order of the rules."""
    for file in sorted((REPOSITORY / "rules").glob("*.smk")):
        text = file.read_text(encoding="utf-8")
        rules = re.split(r"^ *rule (\w+):$", text, flags=re.MULTILINE)
        for rule, body in zip(rules[1::2], rules[2::2], strict=True):
            outputs = re.search(r"^ +output:\n(.*?)^ +log:", body, re.MULTILINE | re.DOTALL)
            named = re.finditer(r"(\w+)=(\[?(?:\w+\()*\s*result\((?:f?\"[^\"]+\")\))", outputs[1] if outputs else "")
            for match in named:
                path = re.search(r"result\(f?\"([^\"]+)\"", match[2])
                assert path
                yield path[1].replace("{{", "{").replace("}}", "}"), FILES[match[1]], rule


def artefacts_page() -> str:
    """Every file that a study makes."""
    lines = [
        "# Files of a study",
        "",
        "Every output below `results`, from the rules. `{…}` varies: `{cohort}` and `{repeat}` are empty unless",
        "`holdout: per_fold` or `pretraining.seeds` asks for more than one model.",
        "[Data](../data.md#artefacts) describes what the main ones hold.",
        "",
        "| path | content | rule |",
        "|---|---|---|",
        *(f"| `{path}` | {content} | `{rule}` |" for path, content, rule in artefacts()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, parser())
