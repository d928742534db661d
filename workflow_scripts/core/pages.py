"""Self-contained HTML pages: a template with its style and scripts inside, which load no other file and forbid it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def render_page(folder: Path, scripts: Sequence[str] = (), **content: Any) -> str:
    """The page of `folder`: its page.html.j2 with style.css and the named scripts, every text of `content` escaped.

    The template's content security policy admits the page's own style and script by their hashes alone, so that text which
    escaping had missed could not run either.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = (folder / "style.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in scripts)
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        style=Markup(style), style_hash=_hash(style), script=Markup(script), script_hash=_hash(script), **content
    )


def png(view: np.ndarray) -> str:
    """A view (H, H) uint8 as a lossless data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
