"""The curve of a training."""

import json
from pathlib import Path

import pytest

from ranking.training.learning_curve import LearningCurve

EPOCHS = [{"loss": 0.7}] + [
    {"loss": loss, "seconds": seconds, "rows_per_second": 100 / seconds}
    for loss, seconds in ((0.5, 2.0), (0.4, 1.0), (0.4, 1.0), (0.6, 4.0))
]


def test_the_earliest_of_the_lowest_is_the_best():
    curve = LearningCurve("loss", EPOCHS)
    assert curve.best_epoch == 2 and curve.best["loss"] == 0.4
    assert curve.rows_per_second == pytest.approx(400 / 8)


@pytest.mark.parametrize(
    ("num_epochs", "patience", "is_over"), [(3, 1, False), (4, 1, True), (4, 2, False), (5, 2, True)]
)
def test_it_has_stopped_after_as_many_epochs_without_a_better_one(num_epochs: int, patience: int, is_over: bool):
    assert LearningCurve("loss", EPOCHS[:num_epochs]).has_stopped_falling(patience) is is_over


def test_one_that_never_falls_stops_after_its_patience_and_keeps_the_beginning():
    curve = LearningCurve("loss", [{"loss": loss} for loss in (0.5, 0.6, 0.6)])
    assert curve.best_epoch == 0 and curve.has_stopped_falling(2) and not curve.has_stopped_falling(3)
    assert not LearningCurve("loss").has_stopped_falling(1)


def test_the_file_counts_the_epochs_and_marks_the_one_that_was_kept(tmp_path: Path):
    LearningCurve("loss", EPOCHS).write(tmp_path / "curve.json")
    read = json.loads((tmp_path / "curve.json").read_text())
    assert [(row["epoch"], row["loss"], row["kept"]) for row in read] == [
        (number, epoch["loss"], number == 2) for number, epoch in enumerate(EPOCHS)
    ]
