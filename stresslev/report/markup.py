"""HTML from parts: whatever is not markup yet is escaped, so that no text of a user can become any."""

import html
import json

_VOID = {"meta", "br", "input"}


class Html(str):
    """Text that is markup already."""


def safe(child) -> Html:
    """A child as markup."""
    return child if isinstance(child, Html) else Html(html.escape(str(child)))


def join(*children, between: str = "") -> Html:
    """Children one after the other; lists are taken apart, None is left out."""
    flat = []
    for child in children:
        if isinstance(child, list | tuple):
            flat.append(join(*child))
        elif child is not None:
            flat.append(safe(child))
    return Html(between.join(flat))


def tag(name: str, /, *children, **attributes) -> Html:
    """An element. `class_` is written class, `aria_label` aria-label; attributes that are None are left out."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items() if value is not None)
    return Html(f"<{name}{written}>") if name in _VOID else Html(f"<{name}{written}>{join(*children)}</{name}>")


def data_script(identity: str, value) -> Html:
    """JSON inside the page, with nothing in it that could end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>')
