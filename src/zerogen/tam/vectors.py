"""Pretrained word vectors for the TAMs that start without any weights."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from zerogen.errors import UserError, nearest

ALLOWED = (
    "allowed are GloVe's or word2vec's text in UTF-8, word2vec's .bin, each also as .gz, and .npy with its words beside"
)
_LISTS = (".txt", ".vocab")  # endings of the words of an .npy file
_WIDEST = 1 << 16  # values of a word
_LONGEST = 1 << 10  # bytes of a word


def read_vectors(path: Path, vocabulary: dict[str, int]) -> dict[int, Tensor]:
    """Read the vectors of the words of a vocabulary (word to id): id to float32 vector [D].

    path: GloVe's or word2vec's text; word2vec's binary format where it ends in .bin; either compressed where it ends in
    .gz; an array [V, D] where it ends in .npy, with its V words, one a line, in a file beside that ends in .txt or
    .vocab. Of spellings that differ by case only, the lower-case one wins, else the first. Raises `UserError` for a
    file that is not there, not in that format, or holds none of the words.
    """
    found: dict[int, Tensor] = {}
    for word, values in _read(path, lambda word: word.lower() in vocabulary):
        place = vocabulary[word.lower()]
        if place not in found or word == word.lower():
            if not np.isfinite(values).all():
                raise UserError(f"tam.vectors={path}: {word!r} has a value that is not finite")
            found[place] = torch.from_numpy(values.astype(np.float32))
    if not found:
        raise UserError(f"tam.vectors={path}: holds none of the {len(vocabulary):,} words of the training texts")
    return found


def words_of(path: Path) -> Iterator[str]:
    """Yield the words of a file of vectors, in its order. Raises `UserError` as `read_vectors` does."""
    for word, _ in _read(path, lambda word: True):
        yield word


def check_vectors(path: Path) -> None:
    """Raise `UserError` for a file that does not begin as word vectors do."""
    if next(_read(path, lambda word: True), None) is None:
        raise UserError(f"tam.vectors={path}: holds no word")


def _read(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    if not path.is_file():
        near = nearest(path.name, [file.name for file in path.parent.glob("*") if file.is_file()])
        raise UserError(f"tam.vectors={path}: there is no such file{near}")
    if path.suffix == ".npy":
        yield from _array(path, wanted)
        return
    binary = Path(path.name.removesuffix(".gz")).suffix == ".bin"
    try:
        with _opened(path) as file:
            yield from (_binary if binary else _text)(file, path, wanted)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"tam.vectors={path}: damaged, or not compressed by gzip ({error})") from error


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _text(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    width = 0
    # What is no text would only be refused after gigabytes, and its bytes be shown.
    beginning = file.read(1 << 12)
    broken = beginning.decode("utf-8", "replace").count("\ufffd")
    if b"\0" in beginning or broken > len(beginning) / 100:  # a few such words happen in large files
        raise UserError(f"tam.vectors={path}: is no text; {ALLOWED}")
    file.seek(0)
    for number, raw in enumerate(file, 1):
        # Of a later word that is not UTF-8, which happens in large files, nothing is wanted.
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
        fields = line.rstrip(" \r\n").split(" ")  # a word may be another white space
        if number == 1 and len(fields) == 2:  # word2vec's head: words and width
            continue
        if fields == [""]:
            continue
        width = width or len(fields) - 1
        word = " ".join(fields[: len(fields) - width])  # which may hold spaces
        if not word or not width:
            has = f"{fields[0][:40]!r} has {len(fields) - 1} values, the first word {width}"
            raise UserError(f"tam.vectors={path}:{number}: {has}; a space stands between them")
        if not wanted(word):
            continue
        try:
            yield word, np.array(fields[-width:], dtype=np.float32)
        except ValueError as error:
            raise UserError(f"tam.vectors={path}:{number}: allowed is a word and its {width} numbers") from error


def _binary(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    try:
        words, width = map(int, file.readline(100).split())
    except ValueError as error:
        raise UserError(f"tam.vectors={path}: not word2vec's binary format; {ALLOWED}") from error
    if words < 1 or not 1 <= width <= _WIDEST:
        has = f"{words} words of {width} values"
        raise UserError(f"tam.vectors={path}: {has}; allowed are 1 or more words of 1 to {_WIDEST:,} values")
    for _ in range(words):
        letters = b""
        while (letter := file.read(1)) not in (b" ", b""):
            letters += letter
            if len(letters) > _LONGEST:
                raise UserError(f"tam.vectors={path}: not word2vec's binary format (a word has no end); {ALLOWED}")
        values = file.read(4 * width)
        if len(values) < 4 * width:
            raise UserError(f"tam.vectors={path}: the file ends early")
        word = letters.decode("utf-8", "replace").lstrip("\n")
        if wanted(word):
            yield word, np.frombuffer(values, dtype="<f4")


def word_list(path: Path) -> Path | None:
    """Return the file with the words of an array of vectors, None where there is none beside it."""
    beside = (path.with_suffix(ending) for ending in _LISTS)
    return next((file for file in beside if file.is_file()), None)


def _array(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    list_of_words = word_list(path)
    if list_of_words is None:
        names = " or ".join(path.with_suffix(ending).name for ending in _LISTS)
        raise UserError(f"tam.vectors={path}: its words, one a line, must be in {names}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"tam.vectors={path}: not an array of numbers in .npy format") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        has = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise UserError(f"tam.vectors={path}: holds {has}; allowed is one array of numbers [V, D]")
    try:
        text = list_of_words.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{list_of_words}: not UTF-8 text ({error})") from error
    words = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if len(words) != len(array):
        raise UserError(f"tam.vectors={path}: has {len(array):,} vectors, {list_of_words.name} {len(words):,} words")
    for word, values in zip(words, array, strict=True):
        if wanted(word):
            yield word, values
