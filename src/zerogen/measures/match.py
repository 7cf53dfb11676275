"""The match report: how a run's synthetic rows differ from its unlabelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from zerogen.data.records import Example
from zerogen.runs.identity import texts_key
from zerogen.runs.run import Run
from zerogen.runs.similarity import open_embedder
from zerogen.support.hashes import short_hash

_FEWEST = 20  # texts of each side from which a head can be fitted on four fifths of them
_SHOWN = 5  # words of each side in a line


def match_settings(run: Run) -> dict[str, Any] | None:
    """Return what the match depends on, beside the rows; None for a run without unlabelled texts."""
    return {"texts": short_hash(texts_key(run.config))} if run.config.unlabelled else None


def match(run: Run, rows: Sequence[Example], texts: Sequence[Example]) -> dict[str, Any]:
    """Compare synthetic rows of a run with unlabelled texts, equally many of each, at most 1,000.

    Of pairs, it is the text that was written, not its context. Returns what `match_words` does, and embeddings
    {encoder, and what `match_vectors` returns} by the encoder of the TAM before training; None where the TAM is none,
    and for fewer than 20 texts.
    """
    from zerogen.metrics.match import match_vectors, match_words, samples

    config = run.config
    synthetic, real = samples([row.text for row in rows], [row.text for row in texts], config.seed)
    found = match_words(synthetic, real) | {"embeddings": None}
    if run.names()[1] != "none" and config.tam.kind == "encoder" and len(real) >= _FEWEST:
        embedder = open_embedder(run)
        vectors = [embedder.embed(side, run.progress).double().numpy() for side in (synthetic, real)]
        found["embeddings"] = {"encoder": config.tam.name, **match_vectors(vectors[0], vectors[1], config.seed)}
    return found


def describe_match(found: dict[str, Any]) -> Iterator[str]:
    """Yield a few lines that summarise a match."""
    ours, theirs = (found["words"][side]["mean"] for side in ("synthetic", "real"))
    line = f"beside {found['texts']:,} real texts: {ours:.1f} words per text, where they have {theirs:.1f}"
    if found["shared"]["real"] is not None and found["shared"]["synthetic"] is not None:
        line += (
            f"; {found['shared']['real']:.1%} of the words of real texts are in synthetic ones, "
            f"{found['shared']['synthetic']:.1%} the other way round"
        )
    sides = {
        name: ", ".join(one["word"] for one in found["telling"][side][:_SHOWN])
        for side, name in (("synthetic", "synthetic texts"), ("real", "real ones"))
    }
    if said := [f"{name} ({told})" for name, told in sides.items() if told]:
        line += f"; words give away {' and '.join(said)}"
    yield line
    embeddings = found["embeddings"]
    if embeddings is None:
        yield f"embeddings were not compared: that takes an encoder as TAM, and {_FEWEST} texts of each side"
        return
    auc = embeddings["auc"]
    yield (
        f"a linear head on the embeddings of {embeddings['encoder']} tells them from real texts with an AUC of "
        f"{auc['share']:.2f} ({auc['interval'][0]:.2f} to {auc['interval'][1]:.2f}; 0.5 is chance); energy distance "
        f"{embeddings['distance']:.3f}"
    )
