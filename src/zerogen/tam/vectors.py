"""Pretrained word vectors for the TAMs that start without any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zerogen.errors import UserError


def read_vectors(path: Path, vocabulary: dict[str, int]) -> dict[int, Tensor]:
    """Read the vectors of the words of a vocabulary (word to id): id to float32 vector [D].

    path: GloVe's or word2vec's text, or word2vec's binary format where it ends in .bin. Of spellings that differ by
    case only, the lower-case one wins, else the first. Raises `UserError` for a file that is not there, not in that
    format, or holds none of the words.
    """
    found: dict[int, Tensor] = {}
    for word, values in _read(path, lambda word: word.lower() in vocabulary):
        place = vocabulary[word.lower()]
        if place not in found or word == word.lower():
            if not np.isfinite(values).all():
                raise UserError(f"tam.vectors={path}: '{word}' has a value that is not finite")
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
        raise UserError(f"tam.vectors={path}: there is no such file")
    return (_binary if path.suffix == ".bin" else _text)(path, wanted)


def _text(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    width = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip(" \r\n").split(" ")  # a word may be another white space
            if number == 1 and len(fields) == 2:  # word2vec's head: words and width
                continue
            if fields == [""]:
                continue
            width = width or len(fields) - 1
            word = " ".join(fields[: len(fields) - width])  # which may hold spaces
            if not word or not width:
                has = f"'{fields[0][:40]}' has {len(fields) - 1} values, the first word {width}"
                raise UserError(f"tam.vectors={path}:{number}: {has}; a space stands between them")
            if not wanted(word):
                continue
            try:
                yield word, np.array(fields[-width:], dtype=np.float32)
            except ValueError as error:
                raise UserError(f"tam.vectors={path}:{number}: allowed is a word and its {width} numbers") from error


def _binary(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    with path.open("rb") as file:
        try:
            words, width = map(int, file.readline().split())
        except ValueError as error:
            raise UserError(f"tam.vectors={path}: not word2vec's binary format") from error
        if words < 1 or width < 1:
            raise UserError(f"tam.vectors={path}: {words} words of {width} values; allowed is 1 or more of each")
        for _ in range(words):
            letters = b""
            while (letter := file.read(1)) not in (b" ", b""):
                letters += letter
            values = file.read(4 * width)
            if len(values) < 4 * width:
                raise UserError(f"tam.vectors={path}: the file ends early")
            word = letters.decode("utf-8", "replace").lstrip("\n")
            if wanted(word):
                yield word, np.frombuffer(values, dtype="<f4")
