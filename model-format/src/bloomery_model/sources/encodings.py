"""Encodings of names and of label texts that do not declare one: chosen once for all of them together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import charset_normalizer

from bloomery_model.sources.encoding_names import Encoding

Penalties = Mapping[Encoding, float]

_EAST_ASIAN: Penalties = {"gbk": 0.0, "shift_jis": 0.1, "big5": 0.15, "cp949": 0.25, "euc-jp": 0.25}
DOS_ENCODINGS: Penalties = {
    **_EAST_ASIAN, "cp850": 0.0, "cp437": 0.02, "cp866": 0.05, "cp1252": 0.05, "cp1251": 0.1, "cp852": 0.15,
    "cp1250": 0.2,
}  # fmt: skip
"""Encodings to choose from, for names that programs on DOS and Windows wrote; the less usual, the higher the value."""

UNIX_ENCODINGS: Penalties = {
    **_EAST_ASIAN, "cp1252": 0.0, "cp1251": 0.05, "cp1250": 0.15, "cp850": 0.1, "cp437": 0.12, "cp866": 0.1,
    "cp852": 0.2,
}  # fmt: skip
"""The same for names and texts from anywhere else."""

UTF16_ENCODINGS: Penalties = {"utf-16le": 0.2, "utf-16be": 0.3}
"""The same for texts that may be UTF-16."""

MAX_SAMPLE_BYTES = 32 * 1024
"""Size of the texts that a choice looks at."""

_SEPARATORS = re.compile(rb"[\x00-\x3f]+")
"""ASCII characters that are no part of a longer character in any of these encodings: no letters."""

_SUPERSETS: Mapping[str, str] = {"gbk": "gb18030", "shift_jis": "cp932", "big5": "cp950", "euc-kr": "cp949"}
"""The codecs that also hold what Windows adds to an encoding."""

_MIN_JUDGED_BYTES = 600
"""Size to which a sample is repeated: charset-normalizer does not judge a few words."""

_NAMED_EXAMPLES = 3
_MAX_EXAMPLE_CHARACTERS = 40
_SIMILAR_SCORE = 0.4
_UNDECODABLE_WEIGHT = 5.0
_SHORT_WORD_WEIGHT = 0.5
_MIN_WORD_LETTERS = 3
_EAST_ASIAN_DISORDER = 0.2
"""What charset-normalizer finds in any Chinese word."""


@dataclass(frozen=True)
class Choice:
    """The encoding of texts that do not declare it.

    Attributes:
        encoding: as ``source.encoding`` names it.
        is_guess: whether another one is possible.
        alternatives: those that fit about as well and give other texts, the better one first.
    """

    encoding: Encoding
    is_guess: bool = False
    alternatives: tuple[Encoding, ...] = ()


@dataclass(frozen=True)
class _Repertoire:
    """The characters of a double-byte encoding, by how usual they are in names.

    Attributes:
        codec: the encoding without extensions.
        common: lead bytes of the common characters, each with its rarity.
    """

    codec: str
    common: Mapping[int, float]

    def rarity(self, character: str) -> float | None:
        """Return how rare a character is, from 0 to 1; None for punctuation, which says nothing."""
        try:
            encoded = character.encode(self.codec)
        except UnicodeEncodeError:
            return 1.0
        if len(encoded) == 1:
            return 1.0
        if unicodedata.category(character)[0] not in "LM":
            return None
        return self.common.get(encoded[0], 0.6)


# The rarity of a set follows from its size: a text in the smaller set is the less likely to be there by chance.
_REPERTOIRES: Mapping[str, _Repertoire] = {
    "gbk": _Repertoire("gb2312", dict.fromkeys(range(0xB0, 0xD8), 0.1)),
    "big5": _Repertoire("big5", dict.fromkeys(range(0xA4, 0xC7), 0.15)),
    "shift_jis": _Repertoire(
        "shift_jis", {**dict.fromkeys(range(0x88, 0x99), 0.1), **dict.fromkeys((0x82, 0x83), 0.0)}
    ),
    "euc-jp": _Repertoire("euc_jp", {**dict.fromkeys(range(0xB0, 0xD0), 0.1), **dict.fromkeys((0xA4, 0xA5), 0.0)}),
    "cp949": _Repertoire("euc_kr", dict.fromkeys(range(0xB0, 0xC9), 0.02)),
}


def decode(text: bytes, encoding: Encoding) -> str:
    """Decode a text.

    Raises:
        UnicodeDecodeError: it is not of this encoding, or has NUL characters, as UTF-16 has in any other encoding.
    """
    codec = _SUPERSETS.get(encoding, encoding)
    decoded = text.decode(codec)
    if "\0" in decoded:
        raise UnicodeDecodeError(codec, text, 0, len(text), "it has NUL characters")
    return decoded


def is_utf8(text: bytes) -> bool:
    """Whether the text is valid UTF-8, as all ASCII texts are."""
    try:
        decode(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def sample_words(texts: Iterable[bytes]) -> Sequence[bytes]:
    """Return the distinct words that are not ASCII, up to ``MAX_SAMPLE_BYTES``."""
    sample: dict[bytes, None] = {}
    size = 0
    for text in texts:
        if size >= MAX_SAMPLE_BYTES or text.isascii():
            continue
        for word in _SEPARATORS.split(text):
            if not word.isascii() and word not in sample:
                sample[word] = None
                size += len(word)
    return tuple(sample)


def describe_choice(choice: Choice, sample: Sequence[bytes]) -> str:
    """Return words that say what was chosen and how to choose otherwise, with examples."""
    words = f"they were read as {choice.encoding}, such as {_quote_examples(sample, choice.encoding)}"
    others = " or ".join(f"{_quote_examples(sample, other)} ({other})" for other in choice.alternatives)
    if others:
        words += f", but could also be {others}"
    return f"{words}; if that is wrong, set source.encoding, or that of append"


def choose_encoding(texts: Sequence[bytes], candidates: Penalties) -> Choice:
    """Choose the encoding in which all texts together look most like words.

    Args:
        texts: distinct texts that are not ASCII.
        candidates: encodings to choose from.
    """
    if all(map(is_utf8, texts)):
        if not texts or is_surely_utf8(texts):
            return Choice("utf-8")
        candidates = {"utf-8": 0.0, **candidates}
    decoded = {encoding: _decode_all(texts, encoding) for encoding in candidates}
    scores = {
        encoding: _score(decoded[encoding], encoding, penalty) + _UNDECODABLE_WEIGHT * _lack(decoded[encoding], texts)
        for encoding, penalty in candidates.items()
    }
    chosen, *others = sorted(candidates, key=scores.__getitem__)
    alternatives = [
        encoding
        for encoding in others
        if scores[encoding] <= scores[chosen] + _SIMILAR_SCORE and decoded[encoding] != decoded[chosen]
    ]
    return Choice(chosen, is_guess=chosen != "utf-8" or bool(alternatives), alternatives=tuple(alternatives[:2]))


def _quote_examples(sample: Sequence[bytes], encoding: Encoding) -> str:
    examples = _decode_all(sample[:_NAMED_EXAMPLES], encoding)
    return ", ".join(repr(example.strip()[:_MAX_EXAMPLE_CHARACTERS]) for example in examples)


def is_surely_utf8(texts: Iterable[bytes]) -> bool:
    """Whether other encodings cannot be the same bytes by chance: one short word in GBK may be valid UTF-8."""
    characters = [character for text in texts for character in text.decode("utf-8") if not character.isascii()]
    return len(characters) > 2 or any(ord(character) >= 0x800 for character in characters)


def _decode_all(texts: Iterable[bytes], encoding: Encoding) -> list[str]:
    decoded = []
    for text in texts:
        try:
            decoded.append(decode(text, encoding))
        except UnicodeDecodeError:
            continue
    return decoded


def _lack(decoded: Sequence[str], texts: Sequence[bytes]) -> float:
    """Return the share of the texts that an encoding cannot decode."""
    return 1 - len(decoded) / len(texts)


def _score(texts: Sequence[str], encoding: Encoding, penalty: float) -> float:
    """Return how unlikely it is that the texts are words: about 0 for common ones."""
    if not texts:
        return penalty
    characters = {character for text in texts for character in text if not character.isascii()}
    rarities = [rarity for character in characters if (rarity := _rarity(character, encoding)) is not None]
    disorder, score = _disorder(texts), sum(rarities) / max(1, len(rarities))
    if encoding in _REPERTOIRES or encoding in UTF16_ENCODINGS:
        # Each further character in the repertoire is evidence that outweighs how usual the encoding is.
        return score + max(0.0, disorder - _EAST_ASIAN_DISORDER) + penalty / max(1, len(rarities))
    return score + disorder + penalty + _SHORT_WORD_WEIGHT * sum(map(_is_short_word, texts)) / len(texts)


def _disorder(texts: Sequence[str]) -> float:
    """Return the share of unlikely neighbours (mixed scripts, odd cases, symbols) that charset-normalizer finds."""
    sample = "".join(f"{text}\n" for text in texts).encode("utf-8", "replace")
    sample *= max(1, -(-_MIN_JUDGED_BYTES // len(sample)))
    best = charset_normalizer.from_bytes(
        sample, steps=1, chunk_size=len(sample), threshold=0.99, cp_isolation=["utf_8"], enable_fallback=False
    ).best()
    return 1.0 if best is None else float(best.chaos)


def _is_short_word(text: str) -> bool:
    return sum(character.isalpha() for character in text) < _MIN_WORD_LETTERS


def _rarity(character: str, encoding: Encoding) -> float | None:
    """Return how rare a character is in names, from 0 to 1; None if it says nothing."""
    repertoire = _REPERTOIRES.get(encoding)
    if repertoire is not None:
        return repertoire.rarity(character)
    if encoding in UTF16_ENCODINGS and ord(character) >= 0x2E80:
        rarities = [repertoire.rarity(character) for repertoire in _REPERTOIRES.values()]
        return min((rarity for rarity in rarities if rarity is not None), default=None)
    return 0.0 if unicodedata.category(character)[0] in "LM" else 1.0
