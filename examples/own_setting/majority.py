"""A setting of your own, MAJORITY: predict the most frequent label of the gold training rows, whatever the text says.

    cd examples/own_setting
    python -m zerogen --config-dir conf task=rotten_tomatoes setting=majority

`conf/setting/majority.yaml` names it as `name: majority:MAJORITY`.
"""

from collections import Counter

from zerogen.data.records import Prediction
from zerogen.estimate import Probe
from zerogen.runs.run import Outcome, Run, describe
from zerogen.runs.settings import Setting


def majority(run: Run) -> Outcome:
    """Predict for every gold row the label that most gold training rows have."""
    rows = run.gold_split("train")
    counts = Counter(row.label for row in rows)
    shares = {label: counts[label] / len(rows) for label in run.config.task.labels}
    outcome = Outcome(n_train=len(rows))
    run.score([Prediction(max(shares, key=shares.__getitem__), shares) for _ in run.gold], outcome)
    run.progress.say(describe(outcome))
    return outcome


def no_time(probe: Probe) -> None:
    """Expect next to nothing: counting takes no time."""
    probe.expected.seconds["count"] = 0.0


MAJORITY = Setting("majority", majority, reads=frozenset({"gold"}), estimate=no_time)
