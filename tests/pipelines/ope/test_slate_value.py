"""The value of slates against an enumeration of all of them, where clicks follow the cascade assumption."""

from itertools import permutations

import numpy as np
import pytest

from pipelines.ope.estimators import EstimateError, doubly_robust, ips, snips
from pipelines.ope.slate_value import JudgedSlates, place_rounds, slate_values

# S slates of k places  I items
SLATES = np.array([*permutations(range(4), 3)])
RNG = np.random.default_rng(1)
RATE_kII = RNG.random((3, 5, 4))
"""Mean reward of an item at a place below another; the last "item above" stands for none."""
SCORE_I, OTHER_I = RNG.normal(size=(2, 4))


def chances(score_I, slate):
    """[k, I] of each item at each place, given the items above."""
    chance_kI = np.zeros((3, 4))
    for place in range(3):
        left = [item for item in range(4) if item not in slate[:place]]
        chance_kI[place, left] = np.exp(score_I[left]) / np.exp(score_I[left]).sum()
    return chance_kI


def of_all_slates() -> tuple[JudgedSlates, np.ndarray, np.ndarray]:
    """Every slate with its mean reward, and its probabilities under the log's policy and the other one."""
    logged_SkI, other_SkI = (np.array([chances(score_I, slate) for slate in SLATES]) for score_I in (SCORE_I, OTHER_I))
    above_Sk = np.hstack([np.full((len(SLATES), 1), 4), SLATES[:, :-1]])
    propensity_Sk, chance_Sk = (
        np.take_along_axis(of_SkI, SLATES[..., None], 2)[..., 0] for of_SkI in (logged_SkI, other_SkI)
    )
    foretold_kI = RNG.random((3, 4))  # a model that knows nothing
    judged = JudgedSlates(
        reward_Bk=RATE_kII[np.arange(3), above_Sk, SLATES],
        propensity_Bk=propensity_Sk,
        chance_Bk=chance_Sk,
        model_Bk=foretold_kI[np.arange(3), SLATES],
        direct_Bk=(other_SkI * foretold_kI).sum(2),
        group_B=np.arange(len(SLATES)),
    )
    return judged, propensity_Sk.prod(1), chance_Sk.prod(1)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_ips_and_dr_are_unbiased_under_the_cascade_assumption_whatever_the_model_says(cut):
    judged, logged_S, other_S = of_all_slates()
    truth = other_S @ judged.reward_Bk[:, :cut].sum(1)
    for estimator in (ips, doubly_robust):
        value_S = sum(estimator(rounds) for rounds in place_rounds(judged)[:cut])
        assert logged_S @ value_S == pytest.approx(truth)
    assert logged_S @ judged.reward_Bk[:, :cut].sum(1) != pytest.approx(truth, abs=1e-4)


def test_the_ratio_of_a_place_alone_is_biased_below_the_first():
    judged, logged_S, other_S = of_all_slates()
    alone_Sk = judged.chance_Bk / judged.propensity_Bk * judged.reward_Bk
    truth_k = other_S @ judged.reward_Bk
    assert logged_S @ alone_Sk[:, 0] == pytest.approx(truth_k[0])
    assert abs(logged_S @ alone_Sk[:, 1] - truth_k[1]) > 0.01


def test_drawn_slates_give_the_truth_within_their_error():
    judged, logged_S, other_S = of_all_slates()
    drawn_B = RNG.choice(len(SLATES), 20_000, p=logged_S)
    of_draws = JudgedSlates(
        **{name: value[drawn_B] for name, value in vars(judged).items()} | {"group_B": np.arange(20_000)}
    )
    for one in slate_values(of_draws, (1, 3, 9)):
        truth = other_S @ judged.reward_Bk[:, : one["places"]].sum(1)
        for name, estimate in one["estimates"].items():
            assert abs(estimate["value"] - truth) < 4 * estimate["standard_error"], name
        difference = one["differences"]["snips"]
        assert difference["value"] == pytest.approx(one["estimates"]["snips"]["value"] - one["logged"]["value"])
    assert one["places"] == 3


def test_slates_of_one_user_count_once():
    judged, _, _ = of_all_slates()
    twice = JudgedSlates(**{name: np.repeat(value, 2, axis=0) for name, value in vars(judged).items()})
    [once_] = slate_values(judged, (2,))
    [twice_] = slate_values(twice, (2,))
    assert twice_["estimates"]["snips"] == pytest.approx(once_["estimates"]["snips"])


def test_nothing_is_said_of_places_that_no_slate_reaches():
    judged, _, _ = of_all_slates()
    chance_Bk = judged.chance_Bk * np.array([1, 1, 0])
    two, three = slate_values(JudgedSlates(**vars(judged) | {"chance_Bk": chance_Bk}), (2, 3))
    assert two["estimates"] and three == {"places": 3, "effective_sample_size": 0, "rewards": None}


def test_no_overlap_and_impossible_slates_are_errors():
    judged, _, _ = of_all_slates()
    with pytest.raises(EstimateError, match="no overlap; give it a temperature"):
        slate_values(JudgedSlates(**vars(judged) | {"chance_Bk": 0 * judged.chance_Bk}), (1,))
    with pytest.raises(EstimateError, match=r"slate 0, place 1: its propensity must be above 0, got 0.0"):
        slate_values(JudgedSlates(**vars(judged) | {"propensity_Bk": 0 * judged.chance_Bk}), (1,))
    assert snips(place_rounds(judged)[0]).mean() > 0
