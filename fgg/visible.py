"""Text of others, made safe to show: names of files, classes, images and features may hold any character."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# With those that change how others are shown: overrides of the direction, and the separators of lines.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u2028\u2029]")
MARKUP = re.compile(r"[\\`*\[\]<>#~&$@]|(?<![^\W_])_|_(?![^\W_])|!(?=\[)|^[-+=]|(?<=\d)[.)](?=\s|$)|:(?=//)|(?<=www)\.")


def has_controls(text: str) -> bool:
    """Whether a text holds control characters (such as a line break or an escape), or bytes that are no UTF-8."""
    return CONTROLS.search(text) is not None


def visible(text: str, keep: str = "") -> str:
    r"""The text with characters that control a terminal or the direction of others as escapes, such as ``\x1b``.

    Args:
        text: the text.
        keep: control characters that stay, such as line breaks.
    """
    return HIDDEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def markdown_plain(text: object) -> str:
    """A text that Markdown shows as it is: no HTML, link, picture or emphasis. In tables, pipes are the table's matter."""
    return MARKUP.sub(lambda found: f"\\{found[0]}", visible(str(text)))


def markdown_code(text: object) -> str:
    """A text as code in Markdown. In tables, pipes are the table's matter."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def literal(fig: Figure) -> None:
    """Show characters that control the direction or the place of others as escapes, in all texts of a figure."""
    from matplotlib.text import Text

    for axes in fig.axes:
        for axis in (axes.xaxis, axes.yaxis):  # drawing sets the labels of ticks anew
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if (shown := [visible(label, keep="\n") for label in labels]) != labels:
                axis.set_ticks(axis.get_ticklocs(), labels=shown)
    for text in fig.findobj(Text):
        if (own := visible(text.get_text(), keep="\n")) != text.get_text():
            text.set_text(own)
