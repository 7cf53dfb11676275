"""Split text into words; in scripts without spaces between words, each character counts as one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Script = Literal["spaced", "han", "kana", "other"]

# Share of letters from which on a text is unspaced: a Han character says as much as two or three letters, so at 0.3
# about half of the content is in either script.
_SHARE = 0.3
_KANA_SHARE = 0.1  # share of kana among Han and kana from which on a text is Japanese; a Chinese one may quote some


def _of(category: str, *blocks: tuple[int, int]) -> str:
    """Return the characters of Unicode blocks in a major category: L for letters, M for combining marks."""
    characters = (chr(point) for first, last in blocks for point in range(first, last + 1))
    return "".join(character for character in characters if unicodedata.category(character)[0] == category)


_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3100, 0x312F),  # Bopomofo
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA00, 0xAADF),  # Cham, Burmese, Tai Viet
)
_HAN = r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = _of("L", (0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F))
_OTHER = _of("L", *_BLOCKS)
_UNSPACED = _HAN + _KANA + _OTHER
_CHARACTER = f"[{_UNSPACED}][{_of('M', (0x3099, 0x309A), *_BLOCKS)}]*"

_INSIDE = rf"[^\W{_UNSPACED}]"  # a character of a word that white space or punctuation delimits
_any_unspaced = re.compile(f"[{_UNSPACED}]")
_any_word = re.compile(r"\w")
_words = re.compile(rf"{_CHARACTER}|[^\s{_UNSPACED}]+")
_bare_words = re.compile(f"{_CHARACTER}|{_INSIDE}+")
_inside = re.compile(_INSIDE)
_letters = re.compile(r"[^\W\d_]")
_han, _kana, _other = (re.compile(f"[{letters}]") for letters in (_HAN, _KANA, _OTHER))


def words(text: str) -> list[str]:
    """Split a text at white space and around each character of a script without spaces: Han, kana, Thai, Lao, ...

    In a text with such characters, punctuation alone is not a word: it stands apart only because they do.
    """
    if not _unspaced(text):
        return text.split()
    return [word for word in _words.findall(text) if _any_word.search(word)]


def bare_words(text: str) -> list[str]:
    """Split a text like `words`, but casefolded and without any punctuation; `isn't` gives two words."""
    return _bare_words.findall(text.casefold())


def holds_words(text: str, part: str) -> bool:
    """Return whether a text contains `part` as whole words."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if not any(map(_inside.match, (text[max(0, start - 1) : start], text[end : end + 1]))):
            return True
        start = text.find(part, start + 1)
    return False


def script(texts: Sequence[str]) -> Script:
    """Return the script in which the texts as a whole are written, judging by their letters.

    `spaced` has spaces between words, as most scripts do. Of the rest, `kana` is Japanese (including its Han
    characters), `han` is Chinese, and `other` is Thai, Lao, Khmer, Burmese, Tibetan and the like.
    """
    if not any(map(_unspaced, texts)):
        return "spaced"
    han, kana, other, letters = (_count(pattern, texts) for pattern in (_han, _kana, _other, _letters))
    if han + kana + other < _SHARE * letters:
        return "spaced"
    if other > han + kana:
        return "other"
    return "kana" if kana >= _KANA_SHARE * (han + kana) else "han"


def _unspaced(text: str) -> bool:
    return not text.isascii() and _any_unspaced.search(text) is not None


def _count(pattern: re.Pattern[str], texts: Sequence[str]) -> int:
    return sum(len(pattern.findall(text)) for text in texts)
