"""Refuse texts with half a surrogate pair, which no tokenizer and no UTF-8 file accepts."""

from __future__ import annotations

from zerogen.errors import UserError


def refuse_surrogates(text: str, where: str) -> None:
    """Raise `UserError` for a text with half a surrogate pair, which no tokenizer and no UTF-8 file accepts.

    where: the place of the text, for errors. Such halves come from JSON's `\\ud83d` escapes and from undecodable bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        if 0xDC80 <= half <= 0xDCFF:  # Python's stand-in for a byte that it could not decode
            raise UserError(f"{where}: not UTF-8 text (it holds the byte 0x{half - 0xDC00:02X})") from None
        raise UserError(f"{where}: holds U+{half:04X}, half of a surrogate pair, which is no character") from None
