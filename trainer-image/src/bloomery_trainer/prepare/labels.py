"""Label texts: the class that each names, once the encoding of all texts of a source is known."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from bloomery_model.sources.encoding_names import Encoding
from bloomery_model.sources.encodings import (
    UNIX_ENCODINGS,
    UTF16_ENCODINGS,
    Choice,
    choose_encoding,
    decode,
    describe_choice,
    is_surely_utf8,
    is_utf8,
)
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import Addition
from bloomery_trainer.prepare.captures import capture_reader
from bloomery_trainer.prepare.class_mapping import find_name_problem
from bloomery_trainer.prepare.file_table import LabelQueries
from bloomery_trainer.prepare.rules import Violation

_BYTE_ORDER_MARKS: Mapping[bytes, Encoding] = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16le",
    codecs.BOM_UTF16_BE: "utf-16be",
}
_NAMED_LABELS = 5
_CACHED_LABELS = 10_000


def resolve_labels(labels: LabelQueries, sources: Sequence[Addition], *, renamed: Collection[str]) -> list[str]:
    """Give each image the class that its label text names, or leave it out; return sentences for people.

    Args:
        labels: the label texts.
        sources: of the images, in the order of their numbers.
        renamed: class names that ``rename`` replaces, and which may therefore have any character.
    """
    warnings: list[str] = []
    replaced = frozenset(map(normalize_class_name, renamed))
    for number, source in enumerate(sources):
        if source.from_ is not None:
            labels.resolve(number, capture_reader(source.trust_above, _check_label, replaced))
            continue
        choice, sample = _choose_label_encoding(labels.distinct(number), source.encoding)
        labels.resolve(number, _label_reader(choice, replaced))
        if choice.is_guess:
            sentence = f"the label texts in {source.uri.partition('?')[0]} do not declare their encoding"
            warnings.append(f"{sentence}: {describe_choice(choice, sample)}")
    unusable = labels.count_unusable(limit=_NAMED_LABELS)
    if unusable:
        named = ", ".join(f"{detail} ({count})" for detail, count in unusable)
        warnings.append(f"images are left out because of their label texts: {named}")
    return warnings


def _choose_label_encoding(texts: Iterable[bytes], encoding: Encoding | None) -> tuple[Choice, Sequence[bytes]]:
    """Return the encoding of all texts without a byte order mark, and the texts from which it was chosen."""
    if encoding is not None:
        return Choice(encoding), ()
    undeclared = [text for text in texts if _split_mark(text)[0] is None]
    if any(b"\0" in text for text in undeclared):
        return choose_encoding(undeclared, {"utf-8": 0.0, **UTF16_ENCODINGS}), undeclared
    sample = [text.strip() for text in undeclared if not text.isascii()]
    others = [text for text in sample if not is_utf8(text)]
    if 2 * len(others) <= len(sample) and is_surely_utf8(set(sample) - set(others)):
        # A few texts that are damaged do not make the others a guess.
        return Choice("utf-8"), ()
    return choose_encoding(sample, {**UNIX_ENCODINGS, **UTF16_ENCODINGS}), sample


def _label_reader(choice: Choice, renamed: Collection[str]) -> Callable[[bytes], str | Violation]:
    @lru_cache(maxsize=_CACHED_LABELS)
    def read(text: bytes) -> str | Violation:
        mark, content = _split_mark(text)
        encoding = mark or choice.encoding
        try:
            label = normalize_class_name(decode(content, encoding).strip())
        except UnicodeDecodeError:
            return Violation("BadLabel", f"its label text is not {encoding.upper()}")
        return _check_label(label, renamed)

    return read


def _check_label(label: str, renamed: Collection[str]) -> str | Violation:
    if not label:
        return Violation("BadLabel", "its label text is empty")
    if len(label.splitlines()) > 1:
        return Violation("BadLabel", "its label text has several lines")
    problem = None if label in renamed else find_name_problem(label)
    return label if problem is None else Violation("BadLabel", f"its label text {label[:100]!r} has {problem}")


def _split_mark(text: bytes) -> tuple[Encoding | None, bytes]:
    """Return the encoding that a byte order mark declares, and the text behind the mark."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if text.startswith(mark):
            return encoding, text.removeprefix(mark)
    return None, text
