"""What every candidate source promises, whatever it scores."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from retrieval.sources import FITTED, CandidateSource, Past, Users
from retrieval.sources.source import settings_of

NO_ITEM = -1
NUM_ITEMS, K = 30, 8
NAMES = ["two_tower", "new_items", *(kind.name for kind in FITTED)]
every_source = pytest.mark.parametrize("name", NAMES)
every_fitted_source = pytest.mark.parametrize("kind", FITTED, ids=lambda kind: kind.name)


def some_of(users: Users, rows) -> Users:
    features = {name: values[rows] for name, values in users.features.items()}
    return Users(features, users.history_BN[rows], users.forbidden_BS[rows], users.query_BE[rows])


def items_of(row_K) -> list[int]:
    return [item for item in row_K.tolist() if item != NO_ITEM]


def assert_same(found, expected):
    for one, other in ((found.row_BK, expected.row_BK), (found.score_BK, expected.score_BK)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_every_source_is_under_test(sources):
    assert set(sources) == set(NAMES)


@every_source
def test_everybody_gets_k_slots_filled_from_the_front(sources, users: Users, name: str):
    found = sources[name].propose(users, K)
    assert found.row_BK.shape == found.score_BK.shape == (len(users), K)
    assert found.row_BK.dtype == np.int64 and found.score_BK.dtype == np.float32
    filled = found.row_BK != NO_ITEM
    assert (np.diff(filled.astype(int), axis=1) <= 0).all() and filled.any()
    assert (np.isneginf(found.score_BK) == ~filled).all() and np.isfinite(found.score_BK[filled]).all()


@every_source
def test_items_exist_and_stand_once_best_first_ties_by_row(sources, users: Users, name: str):
    found = sources[name].propose(users, NUM_ITEMS)
    for row_K, score_K in zip(found.row_BK, found.score_BK, strict=True):
        item, score = items_of(row_K), score_K[: len(items_of(row_K))].tolist()
        assert len(set(item)) == len(item) and set(item) <= set(range(NUM_ITEMS))
        assert list(zip(score, item, strict=True)) == sorted(zip(score, item, strict=True), key=lambda x: (-x[0], x[1]))


@every_source
def test_a_forbidden_item_is_never_proposed_and_takes_nobodys_place(sources, users: Users, name: str):
    nothing = np.full((len(users), 1), NO_ITEM)
    free = sources[name].propose(replace(users, forbidden_BS=nothing), NUM_ITEMS)
    for k in (K, NUM_ITEMS):
        found = sources[name].propose(users, k)
        for user, forbidden in enumerate(users.forbidden_BS):
            allowed = [item for item in items_of(free.row_BK[user]) if item not in forbidden]
            assert items_of(found.row_BK[user]) == allowed[:k]


@every_source
def test_a_user_gets_the_same_alone_and_among_others(sources, users: Users, name: str):
    together = sources[name].propose(users, K)
    for user in range(len(users)):
        alone = sources[name].propose(some_of(users, [user]), K)
        np.testing.assert_array_equal(alone.row_BK[0], together.row_BK[user])
        np.testing.assert_array_equal(alone.score_BK[0], together.score_BK[user])
    rows = np.random.default_rng(0).integers(0, len(users), 64)
    shuffled = sources[name].propose(some_of(users, rows), K)
    np.testing.assert_array_equal(shuffled.row_BK, together.row_BK[rows])


@every_source
@pytest.mark.parametrize("k", [0, 1, 3, NUM_ITEMS, NUM_ITEMS + 50])
def test_a_smaller_k_is_a_prefix_and_a_larger_one_pads(sources, users: Users, name: str, k: int):
    whole, found = sources[name].propose(users, NUM_ITEMS), sources[name].propose(users, k)
    assert found.row_BK.shape == (len(users), k)
    np.testing.assert_array_equal(found.row_BK[:, :NUM_ITEMS], whole.row_BK[:, :k])
    np.testing.assert_array_equal(found.score_BK[:, :NUM_ITEMS], whole.score_BK[:, :k])
    assert (found.row_BK[:, NUM_ITEMS:] == NO_ITEM).all()


@every_source
def test_a_history_that_is_empty_or_wholly_unknown_is_no_error(sources, users: Users, name: str):
    empty, unknown = 39, 4
    assert (users.history_BN[[empty, unknown]] == NO_ITEM).all()
    found = sources[name].propose(some_of(users, [empty, unknown]), K)
    from_history = name in {"covisitation", "repeat_purchase", "similar_content", "linear"}
    for row_K in found.row_BK:
        assert bool(items_of(row_K)) != from_history


@every_source
def test_nobody_asking_is_no_error(sources, users: Users, name: str):
    assert sources[name].propose(some_of(users, []), K).row_BK.shape == (0, K)


@every_source
def test_what_it_is_asked_with_is_left_alone(sources, users: Users, name: str):
    before = [users.history_BN.copy(), users.forbidden_BS.copy(), users.query_BE.copy()]
    sources[name].propose(users, K)
    for values, kept in zip((users.history_BN, users.forbidden_BS, users.query_BE), before, strict=True):
        np.testing.assert_array_equal(values, kept)


@every_fitted_source
def test_a_file_of_its_arrays_proposes_the_same(sources, users: Users, tmp_path, kind):
    source: CandidateSource = sources[kind.name]
    save_file({name: np.ascontiguousarray(values) for name, values in source.arrays.items()}, tmp_path / "arrays")
    again = kind.from_arrays(load_file(tmp_path / "arrays"))
    assert_same(again.propose(users, NUM_ITEMS), source.propose(users, NUM_ITEMS))


@every_fitted_source
def test_equal_pasts_give_equal_arrays(past: Past, kind):
    one, other = (kind.settings(past)[0].fit(replace(past)).arrays for _ in range(2))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@every_fitted_source
def test_its_settings_make_the_same_source_again(past: Past, users: Users, kind):
    for settings in kind.settings(past):
        fitted = settings.fit(past)
        again = kind(**settings_of(fitted)).fit(past)
        assert_same(again.propose(users, K), fitted.propose(users, K))


@every_fitted_source
def test_a_past_in_which_nothing_happened_proposes_nothing(past: Past, users: Users, kind):
    nothing = np.empty(0, np.int64)
    empty = replace(past, user_row=nothing, item_row=nothing, timestamp=nothing)
    for settings in kind.settings(past):
        proposals = settings.fit(empty).propose(users, K)
        if kind.name == "repeat_purchase":  # it learns nothing: what the users had is theirs to bring
            continue
        assert (proposals.row_BK == NO_ITEM).all()


@every_fitted_source
def test_what_was_learned_serves_every_setting_that_only_scoring_reads(kind, past: Past, users: Users):
    for settings in kind.settings(past):
        first = next(one for one in kind.settings(past) if learns_alike(one, settings))
        taken_over = replace(first.fit(past), **{name: getattr(settings, name) for name in kind.scoring})
        assert settings_of(taken_over) == settings_of(settings)
        assert_same(taken_over.propose(users, K), settings.fit(past).propose(users, K))


def learns_alike(one, other) -> bool:
    return {**settings_of(one), **dict.fromkeys(one.scoring)} == {**settings_of(other), **dict.fromkeys(one.scoring)}
