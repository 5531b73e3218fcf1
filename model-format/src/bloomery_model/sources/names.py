"""Names of files in a source: decoded with one encoding for all that declare none, and checked to be paths."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from bloomery_model.file_names import has_control_character, to_printable
from bloomery_model.sources.base import is_junk_file
from bloomery_model.sources.encoding_names import Encoding
from bloomery_model.sources.encodings import (
    DOS_ENCODINGS,
    UNIX_ENCODINGS,
    Choice,
    Penalties,
    choose_encoding,
    decode,
    describe_choice,
    is_surely_utf8,
    is_utf8,
    sample_words,
)


class BadName(Exception):
    """A name that no file of a dataset can have; the text is a sentence with the name."""


class RawName(NamedTuple):
    """A name in an archive.

    Attributes:
        text: its bytes.
        is_utf8: whether the archive declares it to be UTF-8, and it is.
        is_unix: whether a program on Unix or macOS wrote it.
    """

    text: bytes
    is_utf8: bool
    is_unix: bool


@dataclass(frozen=True)
class _Decoder:
    """The encoding of the names that programs of one family of systems wrote.

    Attributes:
        choice: for all names, or for those that are not UTF-8.
        keeps_utf8: whether names that are UTF-8 are read as such.
        sample: names for people, decoded by the choice.
    """

    choice: Choice
    keeps_utf8: bool
    sample: Sequence[bytes]


class NameDecoder:
    """Decodes the names of one archive."""

    def __init__(self, unix: _Decoder, dos: _Decoder) -> None:
        self._unix, self._dos = unix, dos

    @classmethod
    def for_names(cls, names: Iterable[RawName], encoding: Encoding | None) -> Self:
        """Choose the encoding of all names that declare none.

        Args:
            names: of all members; they are read twice.
            encoding: ``source.encoding``, which needs no choice.
        """
        return cls(
            unix=_choose_unix_decoder(_sample_undeclared(names, is_unix=True), encoding),
            dos=_choose_decoder(_sample_undeclared(names, is_unix=False), DOS_ENCODINGS, encoding),
        )

    def decode(self, name: RawName) -> str:
        """Decode a name.

        Raises:
            BadName: it is not of the encoding.
        """
        decoder = self._unix if name.is_unix else self._dos
        if name.is_utf8 or (decoder.keeps_utf8 and is_utf8(name.text)):
            return name.text.decode("utf-8")
        try:
            return decode(name.text, decoder.choice.encoding)
        except UnicodeDecodeError:
            raise BadName(f"the name '{to_printable(name.text)}' is not {decoder.choice.encoding}") from None

    def warnings(self, uri: str) -> list[str]:
        """Return a sentence for each encoding that is a guess."""
        return [
            f"the names in {uri} do not declare their encoding: {describe_choice(decoder.choice, decoder.sample)}"
            for decoder in (self._unix, self._dos)
            if decoder.choice.is_guess
        ]


def check_path(name: str) -> str:
    """Return a name as the path of a file, composed (NFC).

    Raises:
        BadName: the path leads out of its source, or could be taken for another one.
    """
    name = name.removeprefix("./")
    parts = name.split("/")
    if "\\" in name:
        raise BadName(f"the name {name!r} has a backslash; pack it with '/' between folders")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        raise BadName(f"the name {name!r} is an absolute path")
    if ".." in parts:
        raise BadName(f"the name {name!r} leads out of the archive")
    if not all(parts) or "." in parts or to_printable(name) != name:
        raise BadName(f"the name {name!r} is not a valid path")
    return unicodedata.normalize("NFC", name)


def check_key(key: str) -> None:
    """Check the path of a file in a folder, as the client of stores does.

    Raises:
        BadName: it could be taken for another path, or has a control character.
    """
    if has_control_character(key) or not all(part not in ("", ".", "..") for part in key.split("/")):
        raise BadName(f"the name {key!r} is not a valid path")


def is_junk_name(name: str) -> bool:
    """Whether systems and tools made the file, whatever else is wrong with its name."""
    return is_junk_file("/".join(part for part in name.split("/") if part not in ("", ".", "..")))


def _sample_undeclared(names: Iterable[RawName], *, is_unix: bool) -> Sequence[bytes]:
    return sample_words(name.text for name in names if name.is_unix == is_unix and not name.is_utf8)


def _choose_unix_decoder(sample: Sequence[bytes], encoding: Encoding | None) -> _Decoder:
    if encoding is None and all(map(is_utf8, sample)):
        # The default there: also a short word, which may be another one in GBK.
        return _Decoder(Choice("utf-8"), keeps_utf8=True, sample=())
    return _choose_decoder(sample, UNIX_ENCODINGS, encoding)


def _choose_decoder(sample: Sequence[bytes], candidates: Penalties, encoding: Encoding | None) -> _Decoder:
    if encoding is not None:
        return _Decoder(Choice(encoding), keeps_utf8=False, sample=())
    others = [text for text in sample if not is_utf8(text)]
    # An archive that two programs wrote; a few words of another encoding may be UTF-8 by chance.
    is_mixed = bool(others) and 2 * len(others) <= len(sample) and is_surely_utf8(set(sample) - set(others))
    judged = others if is_mixed else sample
    return _Decoder(choose_encoding(judged, candidates), keeps_utf8=is_mixed, sample=judged)
