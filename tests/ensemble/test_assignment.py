"""Users of an experiment: uniform, stable, and independent of those of another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.assignment import place
from ensemble.router_model import candidate_rows, put_together

USERS = [f"user-{number}" for number in range(20_000)]


def places(experiment: str) -> np.ndarray:
    return np.array([place(experiment, user) for user in USERS])


def test_places_are_uniform():
    """The largest distance from the uniform distribution, against the 0.1 % quantile of Kolmogorov and Smirnov."""
    ordered = np.sort(places("spring"))
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    distance = max((steps - ordered).max(), (ordered - (steps - 1 / len(ordered))).max())
    assert distance < 1.95 / np.sqrt(len(ordered))


def test_places_of_two_experiments_are_independent():
    correlation = np.corrcoef(places("spring"), places("summer"))[0, 1]
    assert abs(correlation) < 3.3 / np.sqrt(len(USERS))
    both = (places("spring") < 0.1) & (places("summer") < 0.1)
    assert both.mean() == pytest.approx(0.01, abs=3.3 * np.sqrt(0.01 * 0.99 / len(USERS)))


def test_a_place_never_changes():
    """Computed once with Python's hashlib alone; another process or version must say the same."""
    assert place("spring", "42") == place("spring", b"42")
    assert [round(place(name, user), 12) for name, user in (("spring", "42"), ("summer", "42"), ("spring", "é"))] == [
        0.552299492114,
        0.593292482549,
        0.088688301565,
    ]


@given(st.text(max_size=20), st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()))
def test_a_place_is_in_zero_to_one(experiment, user):
    assert 0 <= place(experiment, user) < 1


def test_a_larger_share_keeps_everybody_who_was_in():
    users = np.array(USERS[:2_000], dtype=object)
    small, large = candidate_rows("spring", 0.05, users), candidate_rows("spring", 0.3, users)
    assert small.sum() and not (small & ~large).any()
    assert not candidate_rows("spring", 0.0, users).any() and candidate_rows("spring", 1.0, users).all()


def test_a_reply_is_put_together_row_by_row_and_padded():
    stable = {
        "item_ids": np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object),
        "scores": np.array([[2, 1], [4, 3]], "f4"),
    }
    candidate = {"item_ids": np.array([[b"x"]], dtype=object), "scores": np.array([[9]], "f4")}
    whole = put_together([(np.array([0, 2]), stable), (np.array([1]), candidate)], 3)
    assert whole["item_ids"].tolist() == [[b"a", b"b"], [b"x", b""], [b"c", b"d"]]
    assert whole["scores"].tolist() == [[2, 1], [9, -np.inf], [4, 3]] and whole["scores"].dtype == np.float32
