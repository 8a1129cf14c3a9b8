"""Names that came with data or a path, made fit to be shown to a person."""

import re
import unicodedata

UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of characters, ends of lines
REVERSING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: object) -> str:
    r"""Text whose control characters are written out, as ``\x1b``: a terminal obeys none."""
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in UNSEEN or c in REVERSING else c
        for c in str(text)
    )


def in_markdown(text: object) -> str:
    """The same for Markdown, to which punctuation means something."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", printable(text))


def in_markup(text: object) -> str:
    """The same for rich, which takes square brackets for styles."""
    from rich.markup import escape

    return escape(printable(text))
