"""Where a figure would be about nothing, page and card say so."""

import json
from pathlib import Path

from tests.report.conftest import Made
from tests.report.test_page import copied
from zerogen.report.cards import dataset_card
from zerogen.report.finished import read_run
from zerogen.report.page import write_report


def test_page_and_card_say_which_figures_say_nothing(made: Made, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    measures = json.loads((folder / "measures.json").read_text())
    measures["diversity"] |= {
        "self_bleu": [0.5, 0.25, None, None, None],
        "distinct": [0.75, 0.125, None, None],
        "tokenizer": "zh",
        "copies_context": 0.25,
        "shingle": 2,
    }
    (folder / "measures.json").write_text(json.dumps(measures))
    page, card = write_report(folder).read_text(), dataset_card(read_run(folder))
    for text in (page, card):
        assert "No text has 3 tokens, so that Self-BLEU says nothing from n = 3 on." in text
        assert "half of the pairs of characters" in text
    assert "50.0 / 25.0 / none / none / none" in page
    assert "Self-BLEU 1 to 5 by zh, over" in page
    assert "Self-BLEU-4" not in card
    measures["diversity"] |= {"self_bleu": None, "distinct": [None] * 4, "near_duplicates": None}
    (folder / "measures.json").write_text(json.dumps(measures))
    page, card = write_report(folder).read_text(), dataset_card(read_run(folder))
    assert "Hardly a text holds words" in page
    assert "| distinct bigrams | none |" in card
