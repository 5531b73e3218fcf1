"""Names of the encodings that a source of images may have."""

from __future__ import annotations

from typing import Literal

Encoding = Literal[
    "utf-8", "utf-16le", "utf-16be", "gbk", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "cp437", "cp737",
    "cp775", "cp850", "cp852", "cp855", "cp857", "cp858", "cp862", "cp866", "cp874", "cp932", "cp936", "cp949", "cp950",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso-8859-1",
    "iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-9", "iso-8859-15", "koi8-r", "koi8-u", "mac-roman",
]  # fmt: skip
