"""Baselines on toy worlds with known answers, against oracles, and the promises every one of them makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from features.artifact import open_artifact, writing
from features.item_content import multi_hot, one_hot, read_item_content, tf_idf
from pipelines.baselines import BASELINES, Events, HeldOut, ItemContent, cached_baselines, run_baselines
from pipelines.baselines import suite as suite_module
from pipelines.baselines.bpr import Bpr
from pipelines.baselines.content_knn import ContentKnn
from pipelines.baselines.covisitation import Covisitation
from pipelines.baselines.ease import Ease
from pipelines.baselines.ials import Ials
from pipelines.baselines.popularity import Popularity
from pipelines.baselines.popularity_by_category import PopularityByCategory
from pipelines.baselines.ranked_rows import best_of, filled, popularity_order, top_rows
from pipelines.baselines.recent_popularity import RecentPopularity
from pipelines.baselines.repeat_purchase import RepeatPurchase
from pipelines.baselines.tuning import tuned

DAY = 86_400
SIZES = {"slate_k": 5, "candidate_k": 20, "max_tuning_users": 0, "seed": 0}


def events(rows: list[tuple[int, int, int]], num_users: int, num_items: int) -> Events:
    """Rows of (user, item, day)."""
    user, item, day = np.array(sorted(rows, key=lambda row: row[2]), np.int64).reshape(-1, 3).T
    return Events(user, item, day * DAY, num_users, num_items)


def two_tastes(num_users: int = 60, num_items: int = 40, seed: int = 0) -> tuple[Events, Events, Events]:
    """Even users take even items, odd users odd ones; the last user and the last two items come only in the test."""
    rng = np.random.default_rng(seed)
    rows = []
    for day in range(100):
        for user in rng.permutation(num_users - 1)[:20]:
            rows.append((user, 2 * rng.integers(0, num_items // 2 - 1) + user % 2, day))
    rows += [(num_users - 1, 0, 95), (0, num_items - 2, 96)]
    taste = pa.array([f"taste {item % 2}" for item in range(num_items)])
    world = replace(events(rows, num_users, num_items), content=ItemContent({"taste": one_hot(taste)}))
    day = world.timestamp // DAY
    return world.where(day < 80), world.where((day >= 80) & (day < 90)), world.where(day >= 90)


def fitted_kinds(train: Events, drop_seen: bool):
    for kind in BASELINES:
        if kind in (Ials, Bpr):
            pytest.importorskip("implicit")
        if not kind.unavailable(train, drop_seen):
            yield kind.grid(train, 10.0)[0].fit(train)


def test_history_is_distinct_and_most_recent_first():
    log = events([(1, 4, 0), (1, 2, 1), (1, 4, 3), (0, 3, 2), (1, 1, 1)], 3, 5)
    assert log.history.indptr.tolist() == [0, 1, 4, 4]
    assert log.history.item_row.tolist() == [3, 4, 1, 2]
    user, place, item = log.history.slots(np.array([2, 1, 0]), last_n=2)
    assert (user.tolist(), place.tolist(), item.tolist()) == ([1, 1, 2], [0, 1, 0], [4, 1, 3])
    np.testing.assert_allclose(log.history.matrix(np.array([1]), decay=0.5).toarray(), [[0, 0.5, 0.25, 0, 1]])


def test_events_out_of_order_are_refused():
    with pytest.raises(ValueError, match="sort the events by time"):
        Events(np.zeros(2, int), np.zeros(2, int), np.array([2, 1]), 1, 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_top_rows_equal_a_full_sort_with_ties_by_item_row(num_users, num_items, k, seed):
    rng = np.random.default_rng(seed)
    score = rng.choice([-np.inf, 0.0, 1.0, 2.0], (num_users, num_items))
    expected = np.full((num_users, k), -1)
    for user in range(num_users):
        order = [item for item in np.lexsort((np.arange(num_items), -score[user])) if score[user, item] > -np.inf]
        expected[user, : len(order[:k])] = order[:k]
    np.testing.assert_array_equal(top_rows(score, k), expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_filled_keeps_what_is_ranked_and_follows_the_fill_order(num_items, k, drop_seen, seed):
    rng = np.random.default_rng(seed)
    num_events = int(rng.integers(0, 12))
    log = Events(
        rng.integers(0, 3, num_events), rng.integers(0, num_items, num_events), np.arange(num_events), 3, num_items
    )
    order = rng.permutation(num_items)
    user_rows = rng.integers(0, 3, 4)
    ranked = np.full((4, k), -1)
    expected = []
    for place, user in enumerate(user_rows):
        had = set(log.item_row[log.user_row == user]) if drop_seen else set()
        allowed = [item for item in rng.permutation(num_items) if item not in had]
        picked = allowed[: rng.integers(0, k + 1)]
        ranked[place, : len(picked)] = picked
        rest = [item for item in order if item not in had and item not in picked]
        row = (picked + rest)[:k]
        expected.append(row + [-1] * (k - len(row)))
    np.testing.assert_array_equal(filled(ranked, user_rows, log.history, drop_seen, order), expected)


def test_popularity_orders_by_window_then_ever_then_item_row():
    log = events([(0, 3, 0), (1, 3, 0), (2, 3, 0), (0, 1, 9), (1, 2, 9), (2, 2, 1)], 3, 5)
    assert popularity_order(log).tolist() == [3, 2, 1, 0, 4]
    assert popularity_order(log, 2.0).tolist() == [2, 1, 3, 0, 4]
    assert RecentPopularity(2.0).fit(log).recommend(np.array([2]), log, 5, True).tolist() == [[1, 0, 4, -1, -1]]


def test_repeat_purchase_gives_the_own_items_by_recency_then_popular_ones():
    log = events([(0, 3, 1), (0, 1, 2), (1, 4, 2), (2, 4, 2)], 4, 5)
    ranked = RepeatPurchase(100.0).fit(log).recommend(np.array([0, 3]), log, 4, drop_seen=False)
    assert ranked.tolist() == [[1, 3, 4, 0], [4, 1, 3, 0]]
    assert "proposes nothing else" in RepeatPurchase.unavailable(log, drop_seen=True)


def test_covisitation_scores_by_cosine():
    log = events([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 2, 0), (3, 0, 1)], 4, 4)
    model = Covisitation(10.0).fit(log)
    similarity = model._similarity_AA.toarray()  # of items 0, 1 and 2: nobody had item 3
    np.testing.assert_allclose(similarity[0], [0, 2 / np.sqrt(4 * 2), 1 / np.sqrt(4 * 1)], rtol=1e-6)
    assert model.recommend(np.array([3]), log, 4, drop_seen=True).tolist() == [[1, 2, 3, -1]]


@pytest.mark.parametrize("num_users", [12, 200], ids=["fewer users than items", "fewer items than users"])
@pytest.mark.parametrize("l2", [1.0, 7.0, 300.0])
def test_ease_equals_its_closed_form_on_either_side(num_users, l2):
    train, _, _ = two_tastes(num_users=max(num_users, 21)) if num_users > 21 else few_users(num_users)
    model = Ease(10.0, l2=l2).fit(train)
    items = np.flatnonzero(train.item_counts)
    matrix = np.zeros((train.num_users, train.num_items))
    matrix[train.user_row, train.item_row] = 1
    known = matrix[:, items]
    inverse = np.linalg.inv(known.T @ known + l2 * np.eye(len(items)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores = model._weights.score(sparse.csr_matrix(known.astype(np.float32)))
    np.testing.assert_allclose(scores, known @ weights, atol=1e-5)
    assert type(model._weights).__name__ == ("_UserSide" if num_users < len(items) else "_ItemSide")


def few_users(num_users: int) -> tuple[Events, Events, Events]:
    rng = np.random.default_rng(5)
    rows = [(user, item, 0) for user in range(num_users) for item in rng.choice(40, 9, replace=False)]
    return (events(rows, num_users, 40),) * 3


def test_ease_says_why_it_leaves_out_a_large_catalogue(monkeypatch):
    train, _, _ = two_tastes()
    monkeypatch.setattr("pipelines.baselines.ease.MAX_SIDE", 5)
    assert "limited to 5" in Ease.unavailable(train, True)


def test_ials_vectors_solve_the_weighted_least_squares_of_hu_et_al():
    pytest.importorskip("implicit")
    train, _, _ = two_tastes()
    model = Ials(10.0, factors=8, regularization=2.0, alpha=5.0).fit(train)
    item_NF = model._model.item_factors.astype(np.float64)
    pairs, counts = np.unique(train.item_row[train.user_row == 3], return_counts=True)
    confidence = np.ones(train.num_items)
    confidence[pairs] = 5.0 * (1 + np.log(counts))
    wanted = np.zeros(train.num_items)
    wanted[pairs] = 1
    left = (item_NF.T * confidence) @ item_NF + 2.0 * np.eye(8)
    user_F = np.linalg.solve(left, (item_NF.T * confidence) @ wanted)
    score = np.where(train.item_counts > 0, item_NF @ user_F, -np.inf)
    ranked = model.recommend(np.array([3]), train, 10, drop_seen=False)
    np.testing.assert_allclose(score[ranked[0]], np.sort(score)[::-1][:10], rtol=1e-3)


def test_ials_folds_in_a_user_who_was_not_there_when_it_was_fitted():
    pytest.importorskip("implicit")
    train, _, _ = two_tastes()
    stranger = train.num_users - 1
    seen = events([(stranger, 3, 0), (stranger, 5, 0), (stranger, 7, 1)], train.num_users, train.num_items)
    ranked = Ials(10.0, factors=8).fit(train).recommend(np.array([stranger]), seen, 10, drop_seen=True)
    assert (ranked % 2 == 1).all() and not set(ranked[0]) & {3, 5, 7}


@pytest.mark.parametrize("kind", [Covisitation, Ials, Ease])
def test_personal_baselines_find_the_taste(kind):
    train, _, _ = two_tastes(num_items=80)
    if kind is Ials:
        pytest.importorskip("implicit")
    users = np.flatnonzero(train.history.count)
    ranked = kind(10.0).fit(train).recommend(users, train, 5, drop_seen=True)
    assert (ranked % 2 == users[:, None] % 2).mean() > 0.95


@pytest.mark.parametrize("drop_seen", [True, False])
def test_every_baseline_keeps_its_promises(drop_seen):
    train, _, _ = two_tastes()
    users = np.arange(train.num_users)
    for baseline in fitted_kinds(train, drop_seen):
        for k in (1, 7, train.num_items + 3):
            ranked = baseline.recommend(users, train, k, drop_seen)
            assert ranked.shape == (len(users), k) and ranked.dtype == np.int64
            for user, row in zip(users, ranked, strict=True):
                had = set(train.item_row[train.user_row == user])
                shown = row[row >= 0]
                allowed = train.num_items - (len(had) if drop_seen else 0)
                assert len(set(shown)) == len(shown) == min(k, allowed), baseline.name
                assert (row[len(shown) :] == -1).all()
                assert not (drop_seen and had & set(shown)), baseline.name


def test_every_baseline_gives_the_popular_items_of_late_to_a_user_without_history():
    train, _, _ = two_tastes()
    stranger = np.array([train.num_users - 1])
    expected = popularity_order(train, 10.0)[:8]
    for baseline in fitted_kinds(train, drop_seen=False):
        if isinstance(baseline, Popularity | RecentPopularity | PopularityByCategory):
            continue
        np.testing.assert_array_equal(baseline.recommend(stranger, train, 8, False)[0], expected, err_msg=baseline.name)


def test_every_baseline_gives_the_same_answer_again_and_the_same_one_by_one():
    train, _, _ = two_tastes()
    users = np.arange(0, train.num_users, 7)
    for baseline in fitted_kinds(train, drop_seen=True):
        together = baseline.recommend(users, train, 10, True)
        np.testing.assert_array_equal(replace(baseline).fit(train).recommend(users, train, 10, True), together)
        if not isinstance(baseline, Ials | Ease | Bpr):  # matrix products round differently in another shape
            alone = [baseline.recommend(users[[place]], train, 10, True)[0] for place in range(len(users))]
            np.testing.assert_array_equal(alone, together, err_msg=baseline.name)


def test_blocks_do_not_change_the_answer(monkeypatch):
    train, _, _ = two_tastes()
    users = np.arange(train.num_users)
    for baseline in (Covisitation(10.0), ContentKnn(10.0, 0.0), PopularityByCategory(10.0, "taste")):
        whole = replace(baseline).fit(train).recommend(users, train, 30, True)
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.baselines.ranked_rows._CELLS_PER_BLOCK", 100)
            np.testing.assert_array_equal(replace(baseline).fit(train).recommend(users, train, 30, True), whole)


def test_only_scored_items_are_ranked_and_those_of_the_history_can_be_dropped():
    log = events([(0, 4, 0), (0, 2, 0), (1, 6, 0)], 2, 8)
    items = np.array([2, 5, 6])
    scores = {0: [3.0, 1.0, -np.inf], 1: [1.0, 1.0, 2.0]}

    def score(rows: np.ndarray) -> np.ndarray:
        return np.array([scores[row] for row in rows])

    assert best_of(score, np.array([0, 1]), 4, items).tolist() == [[2, 5, -1, -1], [6, 2, 5, -1]]
    assert best_of(score, np.array([1, 0]), 2, items, log.history).tolist() == [[2, 5], [5, -1]]
    assert best_of(score, np.array([0]), 2, items[:0]).tolist() == [[-1, -1]]


def test_bpr_ranks_by_its_vectors_and_learns_the_tastes():
    pytest.importorskip("implicit")
    train, _, _ = two_tastes()
    model = Bpr(10.0, factors=8, learning_rate=0.1, iterations=100).fit(train)
    users, items = np.arange(train.num_users - 1), train.had_rows
    score = model._model.user_factors[users] @ model._model.item_factors.T
    ranked = model.recommend(users, train, 5, drop_seen=False)
    np.testing.assert_array_equal(ranked, items[np.argsort(-score, axis=1, kind="stable")[:, :5]])
    assert (ranked % 2 == users[:, None] % 2).mean() > 0.95


def category_world() -> Events:
    """Items 0-2 are red, 3-4 blue, 5 both, 6 neither; user 0 had reds of late, user 1 a blue one long ago."""
    has = multi_hot(pa.array([["r"], ["r"], ["r"], ["b"], ["b"], ["r", "b", "b"], None], pa.list_(pa.string())))
    log = events([(1, 3, 0), (0, 0, 9), (0, 1, 9), (2, 0, 10)], 4, 7)
    return replace(log, content=ItemContent({"colour": has}))


def test_popularity_by_category_equals_its_formula():
    log = category_world()
    model = PopularityByCategory(5.0, "colour", prior=2.0, spread=0.25, size_power=1.0).fit(log)
    recent, popularity, size = np.array([2, 1, 0, 0, 0, 0, 0]), {"r": 3.0, "b": 0.0}, {"r": 4, "b": 3}
    values = [["r"], ["r"], ["r"], ["b"], ["b"], ["r", "b"], []]
    share = {0: {"r": (2 + 2) / 4, "b": 0.0}, 1: {"r": 2 / 3, "b": 1 / 3}, 3: {"r": 1.0, "b": 0.0}}
    for user, shares in share.items():
        expected = [
            np.mean([shares[v] * (0.75 * (n / popularity[v] if n else 0) + 0.25 / size[v]) for v in has]) if has else 0
            for n, has in zip(recent, values, strict=True)
        ]
        order = [item for item in np.lexsort((np.arange(7), -np.array(expected))) if expected[item] > 0]
        ranked = model.recommend(np.array([user]), log, 7, drop_seen=False)[0]
        assert ranked[: len(order)].tolist() == order
    assert model.recommend_cold(np.array([1, 0]), log, 4).tolist() == [[2, 5, 4, -1], [2, 5, -1, -1]]


def test_content_knn_ranks_by_cosine_with_the_mean_of_the_history():
    text = tf_idf(["red shirt", "red shirt", "blue hat", "blue shirt", "green sock", "green sock"])
    assert text is not None
    log = replace(events([(0, 0, 1), (1, 2, 2)], 3, 6), content=ItemContent({}, text))
    dense = text.toarray()
    np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1, rtol=1e-6)
    model = ContentKnn.grid(log, 10.0)[0].fit(log)
    assert model.text_weight == 1.0
    cosine = dense @ dense[0]
    order = [item for item in np.argsort(-cosine, kind="stable") if cosine[item] > 0]
    ranked = model.recommend(np.array([0]), log, 6, drop_seen=False)[0]
    assert ranked[: len(order)].tolist() == order == [0, 1, 3]
    # User 2 has no history and is asked like the usual user, who likes red shirts and blue hats alike.
    assert model.recommend_cold(np.array([0, 2]), log, 4).tolist() == [[1, 3, -1, -1], [3, 1, -1, -1]]


def test_items_without_content_are_never_similar_and_do_not_break_anything():
    log = replace(category_world(), content=ItemContent({"colour": category_world().content.attributes["colour"]}))
    ranked = ContentKnn(10.0, 0.0).fit(log).recommend_cold(np.arange(4), log, 7)
    assert 6 not in ranked and sorted(ranked[0][ranked[0] >= 0]) == [2, 5]
    nothing = replace(log, content=None)
    assert "neither attribute nor text" in ContentKnn.unavailable(nothing, True)
    assert "no attribute" in PopularityByCategory.unavailable(nothing, True)


def test_content_is_read_from_the_raw_tables_with_its_nulls(tmp_path):
    with writing(tmp_path / "etl", "etl", {}, 0, {}) as artifact:
        (artifact.path / "raw").mkdir()
        table = {
            "item_id": ["a", "b", "c"],
            "kind": ["x", None, "x"],
            "tags": [["t", "u"], [], None],
            "price": [1.0, None, 9.0],
            "text": ["one two", None, "two two"],
        }
        pq.write_table(pa.table(table), artifact.path / "raw" / "items.parquet")
        columns = {"categorical": ["kind"], "lists": ["tags"], "continuous": ["price"], "texts": ["text"]}
        artifact.metrics["feature_columns"] = {"item": columns}
    content = read_item_content(open_artifact(tmp_path / "etl", "etl"))
    assert content is not None and content.text_NT is not None
    assert {name: one.toarray().tolist() for name, one in content.attributes.items() if name != "price"} == {
        "kind": [[1], [0], [1]],
        "tags": [[1, 1], [0, 0], [0, 0]],
    }
    price = content.attributes["price"].toarray()
    assert price.sum(axis=1).tolist() == [1, 0, 1] and (price[0] != price[2]).any()
    assert content.text_NT.toarray().tolist() == [[1], [0], [1]], '"one" stands in one text only'


def test_tuning_judges_baselines_of_content_by_items_that_nobody_had():
    train, _, _ = two_tastes()
    late = events([(0, 38, 81), (1, 39, 82)], train.num_users, train.num_items)
    held_out = HeldOut.after(train, late, drop_seen=True, max_users=0, seed=0)
    found = tuned(
        ContentKnn,
        train,
        held_out,
        slate_k=3,
        candidate_k=5,
        drop_seen=True,
        fill_days={"slate": 5.0, "candidates": 9.0},
    )
    assert set(found.best) == {"slate", "candidates", "cold"} and found.best["cold"].fill_days == 9.0
    assert found.trials[0].cold == 1.0 and found.trials[0].as_dict()["cold_recall"] == 1.0
    assert np.isnan(_tuned_popularity(train, held_out).trials[0].cold)


def _tuned_popularity(train: Events, held_out: HeldOut):
    fill_days = {"slate": 5.0, "candidates": 9.0}
    return tuned(Popularity, train, held_out, slate_k=3, candidate_k=5, drop_seen=True, fill_days=fill_days)


def test_held_out_users_and_their_relevant_items():
    seen = events([(0, 1, 0), (1, 2, 0)], 4, 5)
    later = events([(0, 1, 1), (0, 3, 1), (1, 2, 2), (3, 4, 2), (3, 4, 3)], 4, 5)
    fresh = HeldOut.after(seen, later, drop_seen=True, max_users=0, seed=0)
    assert fresh.user_rows.tolist() == [0, 3] and fresh.relevant.item_row.tolist() == [3, 4]
    every = HeldOut.after(seen, later, drop_seen=False, max_users=0, seed=0)
    assert every.user_rows.tolist() == [0, 1, 3] and every.relevant.item_row.tolist() == [1, 3, 2, 4]
    sample = HeldOut.after(seen, later, drop_seen=False, max_users=2, seed=5)
    assert len(sample.user_rows) == sample.relevant.num_users == 2
    np.testing.assert_array_equal(
        sample.user_rows, HeldOut.after(seen, later, drop_seen=False, max_users=2, seed=5).user_rows
    )


def test_tuning_finds_the_window_in_which_tastes_changed():
    rows = [(user, user % 3, day) for day in range(90) for user in range(6)]
    rows += [(user, 3 + user % 3, day) for day in range(90, 100) for user in range(6)]
    train = events(rows, 20, 6)
    valid = events([(user, 3 + user % 3, 100) for user in range(6, 18)], 20, 6)
    held_out = HeldOut.after(train, valid, drop_seen=True, max_users=0, seed=0)
    found = tuned(
        RecentPopularity,
        train,
        held_out,
        slate_k=3,
        candidate_k=3,
        drop_seen=True,
        fill_days={"slate": 0.0, "candidates": 0.0},
    )
    window = found.best["slate"].window_days
    assert 5 < window < 20 and len(found.trials) == 11
    assert max(trial.slate for trial in found.trials) > found.trials[0].slate


def test_the_suite_tunes_every_baseline_and_personal_ones_win_in_a_world_of_tastes():
    pytest.importorskip("implicit")
    train, valid, test = two_tastes(num_users=120)
    users = HeldOut.after(train, test, drop_seen=False, max_users=0, seed=0).user_rows
    results = {one.name: one for one in run_baselines(train, valid, users, drop_seen=True, **SIZES)}
    assert list(results) == [kind.name for kind in BASELINES]
    assert results["repeat_purchase"].skipped and len(results["ials"].trials) > 24
    same_taste = {
        name: (one.slate_BK[:-1] % 2 == users[:-1, None] % 2).mean() for name, one in results.items() if not one.skipped
    }
    for name in ("covisitation", "ials", "ease"):
        assert same_taste[name] > 0.9 > 0.8 > same_taste["popularity"]
        assert results[name].candidates_BK.shape == (len(users), 20)


def test_a_missing_package_is_said_and_not_fatal(monkeypatch):
    monkeypatch.setattr("pipelines.baselines.ials.find_spec", lambda name: None)
    train, valid, _ = two_tastes()
    results = {one.name: one for one in run_baselines(train, valid, np.array([0]), drop_seen=False, **SIZES)}
    assert "not installed" in results["ials"].skipped and not results["ease"].skipped


def test_no_validation_user_is_an_error_that_says_what_to_change():
    train, valid, _ = two_tastes()
    with pytest.raises(ValueError, match=r"etl\.split\.valid_share"):
        run_baselines(train, valid.where(np.zeros(len(valid), bool)), np.array([0]), drop_seen=True, **SIZES)


def test_results_are_read_from_the_cache_until_an_input_or_the_code_changes(tmp_path, monkeypatch):
    train, valid, _ = two_tastes()
    monkeypatch.setattr(suite_module, "BASELINES", (Popularity, RepeatPurchase, Covisitation))
    calls = []

    def compute():
        calls.append(1)
        return run_baselines(train, valid, np.array([4, 2]), drop_seen=True, **SIZES)

    path = tmp_path / "baselines.parquet"
    first = cached_baselines(path, {"etl": "a"}, compute)
    again = cached_baselines(path, {"etl": "a"}, compute)
    assert len(calls) == 1
    for one, other in zip(first, again, strict=True):
        assert (one.name, one.skipped, one.settings, one.trials) == (
            other.name,
            other.skipped,
            other.settings,
            other.trials,
        )
        np.testing.assert_array_equal(one.slate_BK, other.slate_BK)
        np.testing.assert_array_equal(one.candidates_BK, other.candidates_BK)
    cached_baselines(path, {"etl": "b"}, compute)
    monkeypatch.setattr(suite_module, "_version", lambda package: "another")
    cached_baselines(path, {"etl": "b"}, compute)
    assert len(calls) == 3
