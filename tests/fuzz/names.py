"""Random names and paths of files: every script, odd characters, reserved names, and lengths up to every limit."""

from __future__ import annotations

import random

PLAIN_PARTS = (
    "rose",
    "rose",
    "tulip",
    "tulip",
    "凉皮",
    "é",
    "हिन्दी",
    "שלום",
    "a b",
    "a-b",
    ".hidden",
    "__MACOSX",
    "x" * 200,
)
"""Names that class folders may have."""
ODD_PARTS = (
    "rose", "train", "validation", "test", "凉皮", "é", "é", "ÅÅ", "हिन्दी", "שלום", "😀", "a b",
    " a", "a ", "a.", "..", ".", "...", "", ".hidden", "__MACOSX", "Thumbs.db", "CON", "C:", "~", "%2F", "%00", "a%20b",
    "a+b", "a&b", "a\\b", "a\nb", "a\tb", "a\x01b", "a\x7fb", "a\u202eb", "a\ufeffb", "a\ufffdb", "<b>", "'\"`$(x)",
    "-rf", "#", "?x=1", "a" * 255, "凉" * 85, "x" * 1000,
)  # fmt: skip
ENDINGS = (".png", ".png", ".png", ".jpg", ".JPG", ".jpeg", ".bmp", ".gif", ".tif", ".webp", ".txt", ".zip", "")
ODD_ENDINGS = (*ENDINGS, ".", ".p ng", ".PnG ", "..png")


def any_path(chance: random.Random, *, odd: bool) -> str:
    """Return a path of up to five folders and a name; ``odd`` ones are refused by one system or another."""
    parts = ODD_PARTS if odd else PLAIN_PARTS
    if chance.random() < 0.6:
        parts = ("rose", "tulip")
    folders = [chance.choice(parts) for _ in range(chance.choice((0, 1, 1, 1, 2, 5) if odd else (0, *(1,) * 15, 2)))]
    ending = chance.choice(ODD_ENDINGS if odd else ENDINGS)
    name = chance.choice(ODD_PARTS) if odd and chance.random() < 0.5 else str(chance.randrange(10**6))
    return "/".join([*folders, name + ending])


def any_disk_path(chance: random.Random, *, odd: bool) -> str:
    """Return a path that a local file system can hold."""
    parts = [part for part in any_path(chance, odd=odd).split("/") if part not in ("", ".", "..")]
    cut = [part.encode()[:255].decode(errors="ignore") for part in parts]
    return "/".join(cut) or "0.png"
