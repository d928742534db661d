"""A table and its files: numbers as CSV; laid out as Markdown, LaTeX (booktabs) and standalone HTML, every text escaped."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.files import write_csv, write_text

if TYPE_CHECKING:
    import pandas as pd

# Cells and headers that are symbols: how LaTeX and HTML print them.
_SYMBOLS = {
    "L_con": (r"$\mathcal{L}_\mathrm{con}$", "<i>L</i><sub>con</sub>"),
    "L_sup": (r"$\mathcal{L}_\mathrm{sup}$", "<i>L</i><sub>sup</sub>"),
    "lambda": (r"$\lambda$", "λ"),
    "Xg": ("$X_g$", "<i>X</i><sub>g</sub>"),
    "Xgf": ("$X_g^f$", "<i>X</i><sub>g</sub><sup>f</sup>"),
}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "–": "--", "λ": r"$\lambda$",
        "“": "``", "”": "''", "≥": r"$\geq$",
        "²": r"\textsuperscript{2}", "\n": " ",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "*": r"\*", "_": r"\_", "`": r"\`", "<": "&lt;", "\n": " "})
# More columns than this are wider than a page and are scaled to it.
_PAGE_COLUMNS = 7
_STYLE = """
body { font: 14.5px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1c2430; background: #fff;
       margin: 2rem clamp(1rem, 4vw, 2.5rem); }
h1 { font-size: 1.25rem; margin: 0 0 1rem; }
ul + h1 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid #1c2430; border-bottom: 2px solid #1c2430; }
th { font-weight: 600; text-align: right; vertical-align: bottom; border-bottom: 1px solid #1c2430; }
td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .55rem; }
th.text, td.text { text-align: left; }
tbody tr:hover { background: #f2f5f9; }
tr.rule td { border-top: 1px solid #9aa5b1; }
ul { padding-left: 1.1rem; color: #46505c; font-size: .87rem; max-width: 62rem; }
.origin { background: #fff3cd; border-left: 6px solid #d39e00; padding: .5rem .9rem; margin: 0 0 1rem;
          font-weight: 600; }
"""
# Sentences in the cells wrap, unlike numbers.
_WRAPPED = "td.text { white-space: normal; min-width: 11rem; vertical-align: top; }\ntd { border-bottom: 1px solid #d9dfe6; }\n"


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    `rows` are cells of text, as many as `header`; the first `text_columns` are words, the others numbers. A thin line
    is drawn above each row of `rules`. `origin`, where it is not empty, says what the numbers come from instead of
    patients. `number` is the table's in the paper; LaTeX counts for itself and has `label`. `has_sentences`: cells hold
    sentences, which wrap on the HTML page.
    """

    label: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int
    notes: tuple[str, ...] = ()
    rules: tuple[int, ...] = ()
    origin: str = ""
    number: str = ""
    has_sentences: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError("every row needs one cell per column")

    @property
    def heading(self) -> str:
        """The title, after the number if there is one."""
        return f"Table {self.number}: {self.title}" if self.number else self.title

    @property
    def warning(self) -> str:
        """What must not be overlooked about the origin; empty for patients."""
        return (
            f"{self.origin}: made from drawn images, not from patients; it says nothing about ultrasound."
            if self.origin
            else ""
        )


def write_table(table: Table, values: pd.DataFrame, csv: Path, md: Path, html: Path, tex: Path | None = None) -> None:
    """Write the numbers `values` with the table's origin as a last column to `csv`, and the page to the other files."""
    write_text(markdown(table), md)
    if tex is not None:
        write_text(latex(table), tex)
    write_text(html_page(table), html)
    write_csv(values.assign(origin=table.origin), csv)


def markdown(table: Table) -> str:
    """GitHub-flavoured Markdown."""
    lines = [f"**{_markdown(table.heading)}**", ""]
    if table.warning:
        lines = [f"> **{_markdown(table.warning)}**", "", *lines]
    ruler = [":---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    for cells in (table.header, ruler, *table.rows):
        lines.append("| " + " | ".join(cells if cells is ruler else map(_markdown, cells)) + " |")
    lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A LaTeX table float; it needs the packages booktabs and, where it is wide, graphicx."""
    is_wide = len(table.header) > _PAGE_COLUMNS
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    title = _latex(table.title)
    caption = " ".join(_latex(text) for text in (table.title + ".", table.warning, *table.notes) if text)
    lines = [
        r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if is_wide else ""),
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption[{{{title}}}]{{{caption}}}",
        rf"\label{{tab:{table.label}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if is_wide else []),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_latex, table.header)) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        lines += [r"\midrule"] if i in table.rules else []
        # A cell that begins with [ would be read as the optional argument of the line break before it.
        lines.append(" & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in map(_latex, row)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if is_wide else ""), r"\end{table}"]
    return "\n".join(lines) + "\n"


def html_page(table: Table, *more: Table) -> str:
    """A page of its own with one table or several of one origin: no script, nothing loaded from elsewhere."""
    warning = f'<p class="origin">{_html(table.warning)}</p>\n' if table.warning else ""
    wrapped = _WRAPPED if any(part.has_sentences for part in (table, *more)) else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(table.heading)}</title>\n"
        f"<style>{_STYLE}{wrapped}</style>\n</head>\n<body>\n{warning}"
        + "".join(_html_section(part) for part in (table, *more))
        + "</body>\n</html>\n"
    )


def _html_section(table: Table) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        kinds = [' class="text"' if i < table.text_columns else "" for i in range(len(cells))]
        return "".join(f"<{tag}{kind}>{_html(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    rule = {i: ' class="rule"' for i in table.rules}
    body = "\n".join(f"<tr{rule.get(i, '')}>{line(row, 'td')}</tr>" for i, row in enumerate(table.rows))
    notes = "\n".join(f"<li>{_html(note)}</li>" for note in table.notes)
    return (
        f"<h1>{html.escape(table.heading)}</h1>\n"
        f'<div class="scroll"><table>\n<thead><tr>{line(table.header, "th")}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        f"</table></div>\n<ul>\n{notes}\n</ul>\n"
    )


def plus_minus(mean: float, std: float) -> str:
    """`83.89 ± 2.15`; a dash stands for what does not exist (NaN)."""
    return "–" if mean != mean else f"{mean:.2f} ± {number(std)}"


def number(value: float, digits: int = 2) -> str:
    """A number, or a dash for NaN; what rounds to zero has no sign."""
    return "–" if value != value else f"{value:z.{digits}f}"


def counted(count: int, noun: str) -> str:
    """`1 view`, `2 views`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def p_value(p: float) -> str:
    """A p value as it is printed, with a dash for NaN."""
    return "<0.001" if p < 0.001 else number(p, 3)


def _markdown(text: str) -> str:
    # Neither links nor pictures; brackets alone, those of intervals, are neither.
    return text.translate(_MARKDOWN).replace("](", r"]\(").replace("://", "&#58;//")


def _latex(text: str) -> str:
    return _SYMBOLS[text][0] if text in _SYMBOLS else text.translate(_LATEX)


def _html(text: str) -> str:
    return _SYMBOLS[text][1] if text in _SYMBOLS else html.escape(text)
