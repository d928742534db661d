"""A fingerprint of the code that computes a stage's result.

Snakemake's own `code` trigger sees a comment in a rule but not a change in an imported module. Here it is the other
way round: the fingerprint covers the stage's entry point and every module of the package that it imports, at any depth,
and leaves out what cannot change a result: comments, layout, docstrings and log lines.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent
# Calls whose value is thrown away and that only talk: `say(...)`, `print(...)`.
TALK = {"say", "print"}
# Modules that bring settings in and messages out; the settings themselves are parameters of the rules. What lies below
# them is neutral too, but for the names of sets and tables, which stages compute with.
NEUTRAL = (
    "workflow_scripts.runtime.cli", "workflow_scripts.runtime.arguments", "workflow_scripts.core.errors",
    "workflow_scripts.core.log", "workflow_scripts.study.config",
)  # fmt: skip
NOT_NEUTRAL = {"workflow_scripts.study.config.names"}


@cache
def code_version(stage: str) -> str:
    """Sixteen hexadecimal digits that change when code behind `workflow_scripts/<stage>.py` changes its meaning."""
    modules = sorted(_reach(f"{PACKAGE.name}.{stage}"))
    if not modules:
        raise FileNotFoundError(f"no stage {PACKAGE / stage}.py")
    digest = hashlib.sha256()
    for module in modules:
        digest.update(f"{module}\0{_read(module).meaning}\0".encode())
    return digest.hexdigest()[:16]


def reached_modules(stage: str) -> set[str]:
    """Names of the package's modules that a stage imports, itself included."""
    return _reach(f"{PACKAGE.name}.{stage}")


def _reach(start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in found or _is_neutral(module) or not _read(module).exists:
            continue
        found.add(module)
        waiting += _read(module).imports
    return found


def _is_neutral(module: str) -> bool:
    below = any(module == name or module.startswith(f"{name}.") for name in NEUTRAL)
    return below and module not in NOT_NEUTRAL


@dataclass(frozen=True)
class _Module:
    """What the fingerprint needs of a name that may be a module: what it imports of the package, and its meaning."""

    exists: bool
    imports: tuple[str, ...] = ()
    meaning: str = ""


@cache
def _read(module: str) -> _Module:
    """A file is parsed once, however many stages reach it: this is most of what starting Snakemake costs us."""
    path = ROOT.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    if file is None:
        return _Module(exists=False)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = tuple(_imports(tree))
    # The visitor changes the tree. Without positions, layout and comments leave no trace.
    return _Module(exists=True, imports=imports, meaning=ast.dump(_Silence().visit(tree)))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(PACKAGE.name))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE.name):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


class _Silence(ast.NodeTransformer):
    """Drops docstrings and talk (a body may end empty: the tree is only printed, never compiled)."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        value = node.value
        is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        is_talk = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in TALK
        return None if is_text or is_talk else node
