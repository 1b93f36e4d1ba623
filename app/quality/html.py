"""Pages of one piece: a template with its style and its script inside, and nothing that is fetched from anywhere.

Texts of documents and questions are other people's. The template escapes them, and the page's own policy lets nothing
run but the one script whose hash it names.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

FOLDER = Path(__file__).parent


def fill(
    template: str, styles: Sequence[str], script: str, filters: Mapping[str, Callable[..., object]], **values: Any
) -> str:
    """A page from the files of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes a while, which --help need not pay

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    inside = {"style": _read(styles), "script": _read([script])}
    policy = (
        f"default-src 'none'; style-src '{digest(inside['style'])}'; script-src '{digest(inside['script'])}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(**inside, policy=Markup(policy), **values).strip()


def digest(text: str) -> str:
    """What a content security policy calls a text by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _read(names: Sequence[str]) -> Markup:
    return Markup("").join(Markup((FOLDER / name).read_text("utf-8")) for name in names)
