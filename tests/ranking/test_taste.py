"""Features of pairs against loops, and that a pair's do not depend on the others of a call."""

import numpy as np
import pytest

from ranking.taste import LIMIT, NO_ITEM, PRIOR, affinities, attributes_at, in_demand, relative_numbers, similarities

RANDOM = np.random.default_rng(0)
NUM_ITEMS, WINDOWS = 300, 5
HISTORY = np.array([[7, 3, 250, 9, 11, 12, 7], [5, NO_ITEM, NO_ITEM, NO_ITEM, NO_ITEM, NO_ITEM, NO_ITEM]])
HISTORY = np.concatenate([HISTORY, np.full((1, 7), NO_ITEM)])
CANDIDATES = RANDOM.integers(0, NUM_ITEMS, (3, 20))
POPULARITY = RANDOM.normal(3, 1, (NUM_ITEMS, WINDOWS)).astype(np.float32)


@pytest.fixture(scope="module")
def unit() -> np.ndarray:
    vectors = RANDOM.normal(size=(NUM_ITEMS, 6))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def attribute() -> dict[str, np.ndarray]:
    return {"item_colour": RANDOM.integers(0, 9, NUM_ITEMS), "item_genres": RANDOM.integers(0, 12, (NUM_ITEMS, 3))}


def test_similarities_are_cosines_with_the_history(unit):
    found = similarities(CANDIDATES, HISTORY, unit)
    for user, history in enumerate(HISTORY):
        past = [item for item in history if item != NO_ITEM]
        for place, item in enumerate(CANDIDATES[user]):
            cosine = [float(unit[item] @ unit[one]) for one in past]
            belief = len(past) / (len(past) + PRIOR)
            expected = [np.mean(cosine), np.mean(cosine[:5]), max(cosine)] if past else [0, 0, 0]
            got = [values[user, place] for values in found.values()]
            np.testing.assert_allclose(got, np.array(expected) * belief, atol=1e-6)


def test_affinities_compare_the_history_with_the_items_in_demand(attribute):
    demanded = in_demand(POPULARITY)
    found = affinities(CANDIDATES, HISTORY, attributes_at(attribute, demanded))
    assert list(found) == ["pair_colour", "pair_genres"]
    for name, values in (("pair_colour", attribute["item_colour"][:, None]), ("pair_genres", attribute["item_genres"])):
        common = [(values[demanded] == value).sum() / len(demanded) for value in range(12)]
        for user, history in enumerate(HISTORY):
            past = [item for item in history if item != NO_ITEM]
            for place, item in enumerate(CANDIDATES[user]):
                known = [value for value in values[item] if value >= 3]
                more = [
                    (sum((values[one] == value).sum() for one in past) - len(past) * common[value])
                    / (len(past) + PRIOR)
                    for value in known
                ]
                assert found[name][user, place] == pytest.approx(sum(more) / max(len(known), 1), abs=1e-6)


def test_numbers_are_relative_to_the_items_in_demand():
    demanded = in_demand(POPULARITY)
    assert demanded.tolist() == sorted(range(NUM_ITEMS), key=lambda item: -POPULARITY[item, 2])[:200]
    age = RANDOM.exponential(5, NUM_ITEMS)
    found = relative_numbers({"item_age_days": age}, POPULARITY)
    assert list(found) == ["item_relative_age_days", *(f"item_relative_popularity_{one}" for one in range(WINDOWS))]
    expected = (age - age[demanded].mean()) / age[demanded].std()
    np.testing.assert_allclose(found["item_relative_age_days"], np.clip(expected, -LIMIT, LIMIT), rtol=1e-5)
    assert found["item_relative_popularity_2"][demanded].mean() == pytest.approx(0, abs=1e-5)


def test_what_grows_for_all_items_alike_changes_no_relative_number():
    one = relative_numbers({"item_num_events": POPULARITY[:, 0]}, POPULARITY)
    other = relative_numbers({"item_num_events": POPULARITY[:, 0] * 3 + 7}, POPULARITY * 2 + 1)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)


def test_a_number_that_is_the_same_everywhere_says_nothing():
    found = relative_numbers({"item_trend": np.full(NUM_ITEMS, 4.0)}, POPULARITY)
    assert not found["item_relative_trend"].any()


def test_a_pair_depends_on_no_other_pair_bit_for_bit(unit, attribute):
    demanded = in_demand(POPULARITY)
    together = similarities(CANDIDATES, HISTORY, unit) | affinities(
        CANDIDATES, HISTORY, attributes_at(attribute, demanded)
    )
    for user in range(3):
        for places in (slice(0, 1), slice(3, 20)):
            rows, history = CANDIDATES[user : user + 1, places], HISTORY[user : user + 1]
            alone = similarities(rows, history, unit) | affinities(rows, history, attributes_at(attribute, demanded))
            for name, values in together.items():
                np.testing.assert_array_equal(alone[name][0], values[user, places], err_msg=name)
