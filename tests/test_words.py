"""Words of spaced scripts are what white space divides; of others, characters."""

import re

import pytest

from zerogen.data.words import bare_words, holds_words, script, words

SPACED = [
    "It's fine, isn't it? - yes_no 3.5% a\u00a0b\tc\x1cd\u200be",
    "Où est l'été\u2026 \u201cici\u201d, ça va ; n\u00b01",
    "Фильм был скучным, ушли рано!",
    "فيلم جميل جدا",
    "यह फ़िल्म बहुत अच्छी है।",
    "이 영화는 정말 재미있었다.",
    "an emoji \U0001f600 alone, and (\u0301) a mark; Ｆｕｌｌ　ｗｉｄｔｈ。",
    "",
    " ",
]


@pytest.mark.parametrize("text", SPACED)
def test_scripts_with_spaces_are_split_at_them(text: str) -> None:
    assert words(text) == text.split()
    assert bare_words(text) == re.findall(r"\w+", text.casefold())
    assert script([text]) == "spaced"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("我喜欢这部电影，非常好看。", "han", list("我喜欢这部电影非常好看")),
        ("我们用 Python 3.12 写iPhone应用程序！", "han", [*"我们用", "Python", "3.12", "写", "iPhone", *"应用程序"]),
        ("𠀀字々", "han", ["𠀀", "字", "々"]),
        ("この映画はコーヒーより良い。", "kana", list("この映画はコーヒーより良い")),
        ("ｶﾞ か\u3099", "kana", ["ｶ", "ﾞ", "か\u3099"]),
        ("ที่นี่ดีมาก ๑๒ ครั้ง", "other", ["ที่", "นี่", "ดี", "ม", "า", "ก", "๑๒", "ค", "รั้", "ง"]),
        ("ຂ້ອຍມັກ", "other", ["ຂ້", "ອ", "ຍ", "ມັ", "ກ"]),
        ("ខ្ញុំចូល", "other", ["ខ្", "ញុំ", "ចូ", "ល"]),
        ("ကျွန်တော်", "other", ["ကျွ", "န်", "တော်"]),
        ("བོད་ཡིག", "other", ["བོ", "ད", "ཡི", "ག"]),
    ],
)
def test_other_characters_are_words_of_their_own(text: str, kind: str, expected: list[str]) -> None:
    assert [re.sub(r"[，。！་]", "", word) for word in words(text)] == expected
    assert script([text]) == kind


def test_case_and_punctuation_are_no_part_of_bare_words() -> None:
    assert bare_words("《iPhone》好用！Isn't it") == ["iphone", "好", "用", "isn", "t", "it"]


def test_the_script_is_that_of_most_that_is_said() -> None:
    english = "a fine film about a family of five"
    assert script([english, english, "一部好电影"]) == "spaced"
    assert script([english, "这是一部关于五口之家的好电影，我和家人都很喜欢", "演员的表演也十分出色"]) == "han"
    assert script(["我们去了一家叫「さくら」的餐厅，那里的菜非常好吃，服务员也十分热情，下次还会再来", "很好"]) == "han"
    assert script(["ร้านนี้อร่อยมาก", "好吃"]) == "other"
    assert script([]) == "spaced"


def test_a_text_holds_whole_words() -> None:
    assert holds_words("when was ann lee born?", "ann lee")
    assert not holds_words("in 1900", "19")
    assert holds_words("1900 and 19", "19")
    assert not holds_words("anna", "ann")
    assert holds_words("北京是哪国的首都", "北京")
    assert holds_words("19年", "19")
