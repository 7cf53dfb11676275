"""Pretrained word vectors for the TAMs that start without any weights."""

from __future__ import annotations

from collections.abc import Iterator
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
    if not path.is_file():
        raise UserError(f"tam.vectors={path}: there is no such file")
    found: dict[int, Tensor] = {}
    width = 0
    for word, values in (_binary if path.suffix == ".bin" else _text)(path):
        width = width or len(values)
        if len(values) != width:
            raise UserError(f"tam.vectors={path}: '{word}' has {len(values)} values, the first word {width}")
        place = vocabulary.get(word.lower())
        if place is not None and (place not in found or word == word.lower()):
            found[place] = torch.from_numpy(values.astype(np.float32))
    if not found:
        raise UserError(f"tam.vectors={path}: holds none of the {len(vocabulary):,} words of the training texts")
    return found


def _text(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:  # word2vec's head: words and width
                continue
            try:
                yield word, np.array(values, dtype=np.float32)
            except ValueError as error:
                raise UserError(f"tam.vectors={path}:{number}: allowed is a word and its numbers") from error


def _binary(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with path.open("rb") as file:
        try:
            words, width = map(int, file.readline().split())
        except ValueError as error:
            raise UserError(f"tam.vectors={path}: not word2vec's binary format") from error
        for _ in range(words):
            word = b""
            while (letter := file.read(1)) not in (b" ", b""):
                word += letter
            values = file.read(4 * width)
            if len(values) < 4 * width:
                raise UserError(f"tam.vectors={path}: the file ends early")
            yield word.decode("utf-8", "replace").lstrip("\n"), np.frombuffer(values, dtype="<f4")
