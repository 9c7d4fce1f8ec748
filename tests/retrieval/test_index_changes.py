"""Filters, changes and files of ItemIndex against a dictionary of vectors that is searched by hand."""

import json
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.config import IndexConfig
from retrieval.index import DivergedError, ItemIndex, build, builder, load, search
from retrieval.index.files import FILES, save
from retrieval.index.holder import IndexHolder
from retrieval.index.identity import (
    DamagedIndexError,
    DuplicateItemsError,
    ForeignModelError,
    IndexIdentity,
    OtherDimensionError,
    OtherVocabularyError,
    UnfitIndexError,
)

NUM_ITEMS, DIM = 2_000, 12
KINDS = ["flat", "hnsw", "ivf_pq"]
VOCABULARY = {"number": 3, "sha256": "cd" * 32}


def config_of(kind: str) -> IndexConfig:
    return IndexConfig(kind=kind, recall_target=0.9)


def vectors_of(number: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(9).normal(size=(20, DIM))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 20, number)] + 0.5 * random.normal(size=(number, DIM))).astype(np.float32)


VECTORS, QUERIES = vectors_of(NUM_ITEMS, 0), vectors_of(20, 1)


def fresh(kind: str, **kwargs) -> ItemIndex:
    return build(VECTORS, config_of(kind), raw_ids=[f"i{row}" for row in range(NUM_ITEMS)], **kwargs)


@pytest.fixture(scope="module", params=KINDS)
def unchanged(request) -> ItemIndex:
    index = fresh(request.param)
    assert index.kind.name == request.param
    return index


@pytest.mark.parametrize("num_allowed", [0, 1, 7, 50, 99, 400, 1_500])
def test_every_query_gets_k_allowed_items_while_there_are_so_many(unchanged, num_allowed):
    allowed = np.zeros(NUM_ITEMS, bool)
    allowed[np.random.default_rng(num_allowed).choice(NUM_ITEMS, num_allowed, replace=False)] = True
    row, score = search(unchanged, QUERIES, 100, allowed=allowed)
    assert row.shape == (20, 100)
    assert ((row >= 0).sum(1) == min(num_allowed, 100)).all() and ((row < 0) == np.isneginf(score)).all()
    assert allowed[row[row >= 0]].all()
    assert all(len(np.unique(rows[rows >= 0])) == (rows >= 0).sum() for rows in row)
    best = np.argsort(np.where(allowed, -(QUERIES @ VECTORS.T), np.inf), axis=1)[:, : min(num_allowed, 100)]
    num_found = sum(np.isin(true, rows).sum() for true, rows in zip(best, row, strict=True))
    assert num_found >= 0.85 * best.size


def test_what_is_allowed_far_from_the_query_is_found_too(unchanged):
    """The graph and the cells near the query hold nothing that is allowed."""
    for query in QUERIES[:5]:
        worst = np.argsort(VECTORS @ query)[:300]
        allowed = np.zeros(NUM_ITEMS, bool)
        allowed[worst] = True
        row, _ = search(unchanged, query[None], 100, allowed=allowed)
        assert (row >= 0).all() and allowed[row].all()


def test_each_query_has_its_own_forbidden_items(unchanged):
    best = search(unchanged, QUERIES, 60)[0]
    forbidden = np.full((20, 61), -1)
    for query in range(20):
        forbidden[query, : 3 * query] = best[query, : 3 * query]
    forbidden[:, 60] = NUM_ITEMS + 5
    row, _ = search(unchanged, QUERIES, 40, forbidden=forbidden)
    assert (row >= 0).all()
    for query in range(20):
        assert not np.isin(row[query], forbidden[query]).any()
        by_hand = np.argsort(-(VECTORS @ QUERIES[query]), kind="stable")
        by_hand = by_hand[~np.isin(by_hand, forbidden[query])][:40]
        assert np.isin(by_hand, row[query]).mean() > 0.7


def test_with_everything_forbidden_nothing_comes_back(unchanged):
    row, score = search(unchanged, QUERIES[:1], 5, forbidden=np.arange(NUM_ITEMS)[None])
    assert (row == -1).all() and np.isneginf(score).all()


def by_hand(now: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[int]:
    rows = np.array(sorted(now))
    score = np.stack([now[row] for row in rows]).astype(np.float64) @ query.astype(np.float64)
    return rows[np.argsort(-score, kind="stable")[:k]].tolist()


operation = st.tuples(
    st.sampled_from(["put", "put_new", "delete", "compact", "save"]), st.integers(0, 79), st.integers(0, 10**6)
)


@given(operations=st.lists(operation, max_size=12))
@settings(max_examples=60, deadline=None)
def test_after_any_changes_the_index_answers_as_one_that_never_had_the_past(operations, tmp_path_factory):
    index = build(VECTORS[:60], IndexConfig(), raw_ids=[f"i{row}" for row in range(60)])
    row_of, now = {f"i{row}": row for row in range(60)}, dict(enumerate(VECTORS[:60]))
    for what, item, seed in operations:
        vector, raw_id = vectors_of(1, seed), f"i{item}"
        if what == "put" or (what == "put_new" and raw_id not in row_of):
            row = row_of.setdefault(raw_id, len(row_of))
            assert index.put([raw_id], vector).tolist() == [row]
            now[row] = vector[0]
        elif what == "delete" and raw_id in row_of and len(now) > 1:
            index.delete([raw_id])
            now.pop(row_of[raw_id], None)
        elif what == "compact":
            index.compact(builder(IndexConfig()))
            assert index.changed_share == 0
        elif what == "save":
            folder = tmp_path_factory.mktemp("saved") / "index"
            save(index, folder)
            index = load(folder)
    assert len(index) == len(now) and index.num_rows == len(row_of)
    for query in QUERIES[:3]:
        assert search(index, query[None], 80)[0][0].tolist() == by_hand(now, query, 80)
    assert index.ids_of(np.arange(len(row_of))) == list(row_of)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_deletes_and_additions_leave_no_stale_answer(kind, tmp_path):
    index, random = fresh(kind), np.random.default_rng(2)
    now: dict[int, np.ndarray] = dict(enumerate(VECTORS))
    updated, deleted = np.split(random.choice(NUM_ITEMS, 600, replace=False), 2)
    new, added = vectors_of(300, 5), vectors_of(40, 6)
    index.put([f"i{row}" for row in updated], new)
    index.delete([f"i{row}" for row in deleted])
    assert index.put([f"new{i}" for i in range(40)], added).tolist() == list(range(NUM_ITEMS, NUM_ITEMS + 40))
    now |= dict(zip(updated.tolist(), new, strict=True)) | {NUM_ITEMS + i: vector for i, vector in enumerate(added)}
    for row in deleted.tolist():
        del now[row]
    assert index.needs_compacting and len(index) == len(now)
    save(index, tmp_path / "index")
    compacted = load(tmp_path / "index")
    compacted.compact(builder(config_of(kind)))
    assert not compacted.needs_compacting and compacted.kind.name == kind
    save(compacted, tmp_path / "compacted")
    for changed in (index, load(tmp_path / "index"), compacted, load(tmp_path / "compacted")):
        queries = np.concatenate([VECTORS[updated], VECTORS[deleted], new, added])
        row, score = search(changed, queries, 50)
        assert not np.isin(row, deleted).any()
        true = np.array([[now[r] @ q for r in rows] for rows, q in zip(row.tolist(), queries, strict=True)])
        np.testing.assert_allclose(score, true, rtol=1e-4, atol=1e-4)
        allowed = np.zeros(NUM_ITEMS + 40, bool)
        allowed[NUM_ITEMS:] = True
        row, _ = search(changed, added, 1, allowed=allowed)
        best = np.argmax(added @ added.T, axis=1) + NUM_ITEMS
        np.testing.assert_array_equal(row[:, 0], best)
        row, _ = search(changed, added, 1, allowed=np.ones(NUM_ITEMS, bool))
        assert (row < NUM_ITEMS).all()  # rows beyond the mask's end may not be shown
        row, _ = search(changed, VECTORS[deleted], 50, allowed=np.ones(NUM_ITEMS, bool))
        assert (row >= 0).all() and not np.isin(row, deleted).any()


def test_what_changes_while_the_index_is_compacted_is_kept():
    index = fresh("flat")
    index.delete(["i1"])

    def build_slowly(vectors):
        index.put(["i2", "new"], QUERIES[:2] * 50)
        index.delete(["i3"])
        return builder(IndexConfig())(vectors)

    index.compact(build_slowly)
    assert search(index, QUERIES[:2], 1)[0].tolist() == [[2], [NUM_ITEMS]]
    assert not np.isin(search(index, VECTORS[[1, 3]], NUM_ITEMS)[0], [1, 3]).any()
    assert len(index) == NUM_ITEMS - 1 and 0 < index.changed_share < 0.01


def test_a_deleted_item_that_comes_back_has_its_row_again():
    index = fresh("flat")
    index.delete(["i7", "i7"])
    index.delete(["i7"])
    assert len(index) == NUM_ITEMS - 1
    assert index.put(["i7"], VECTORS[:1]).tolist() == [7]
    assert len(index) == NUM_ITEMS


def test_items_without_ids_are_named_by_their_rows():
    index = build(VECTORS, IndexConfig())
    index.delete([3])
    assert index.put([NUM_ITEMS], QUERIES[:1]).tolist() == [NUM_ITEMS]
    assert index.ids_of(np.array([NUM_ITEMS, 0])) == [NUM_ITEMS, 0]


def test_changes_that_do_not_fit_are_refused_and_change_nothing():
    index = fresh("flat")
    before = search(index, QUERIES, 50)
    bad = VECTORS[:2].copy()
    bad[1, 3] = np.nan
    for error, message, ids, vectors in (
        (DuplicateItemsError, "item 'i4' stands in rows 0 and 1", ["i4", "i4"], VECTORS[:2]),
        (DivergedError, "row 1 is not finite", ["i4", "i5"], bad),
        (OtherDimensionError, r"needed vectors \[N, 12\], got \(2, 5\)", ["i4", "i5"], VECTORS[:2, :5]),
        (UnfitIndexError, "a vector for each of 3 items, got 2", ["i4", "i5", "i6"], VECTORS[:2]),
    ):
        with pytest.raises(error, match=message):
            index.put(ids, vectors)
    with pytest.raises(UnfitIndexError, match="never had, the first is 'nobody'"):
        index.delete(["i4", "nobody"])
    after = search(index, QUERIES, 50)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_index_answers_as_one_that_was_read(kind, tmp_path):
    save(fresh(kind), tmp_path / "index")
    answers = [search(load(tmp_path / "index", mapped=mapped), QUERIES, 50) for mapped in (True, False)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*answers, strict=True))


def test_saving_over_a_mapped_index_leaves_the_one_in_use_as_it_was(tmp_path):
    save(fresh("flat"), tmp_path / "index")
    in_use = load(tmp_path / "index")
    before = search(in_use, QUERIES, 50)
    other = fresh("flat")
    other.delete([f"i{row}" for row in range(500)])
    save(other, tmp_path / "index")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, search(in_use, QUERIES, 50), strict=True))
    assert len(load(tmp_path / "index")) == NUM_ITEMS - 500
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("error", "message", "expected"),
    [
        (ForeignModelError, "vectors of model abab.*queries come from ffff", {"expected_model": "ff" * 32}),
        (
            OtherVocabularyError,
            "the newer vocabulary 3 .*the model has 2",
            {"expected_vocabulary": {"number": 2, "sha256": "cd" * 32}},
        ),
        (
            OtherVocabularyError,
            "another vocabulary 3 .*the model has 4",
            {"expected_vocabulary": {"number": 4, "sha256": "ee" * 32}},
        ),
        (
            OtherVocabularyError,
            r"another vocabulary 3 \(cdcd.*the model has 3 \(eeee",
            {"expected_vocabulary": {"number": 3, "sha256": "ee" * 32}},
        ),
        (OtherDimensionError, "index has dimension 12, the queries have 64", {"expected_dim": 64}),
    ],
)
def test_an_index_that_does_not_fit_is_refused_by_name(tmp_path, error, message, expected):
    save(fresh("flat", identity=IndexIdentity("ab" * 32, VOCABULARY)), tmp_path / "index")
    load(tmp_path / "index", expected_model="ab" * 32, expected_vocabulary=VOCABULARY, expected_dim=DIM)
    with pytest.raises(error, match=message):
        load(tmp_path / "index", **expected)


def test_an_index_of_unknown_origin_is_refused_where_an_origin_is_asked_for(tmp_path):
    save(fresh("flat"), tmp_path / "index")
    with pytest.raises(ForeignModelError, match="vectors of model None"):
        load(tmp_path / "index", expected_model="ff" * 32)
    with pytest.raises(OtherVocabularyError, match="another vocabulary None"):
        load(tmp_path / "index", expected_vocabulary=VOCABULARY)


def test_an_exact_index_alone_is_enough_and_another_kind_alone_is_not(tmp_path):
    for kind in KINDS:
        save(fresh(kind), tmp_path / kind)
        (tmp_path / kind / "index.json").unlink()
    assert len(load(tmp_path / "flat" / "index.faiss")) == NUM_ITEMS
    for kind in KINDS[1:]:
        with pytest.raises(DamagedIndexError, match=r"index\.json is missing"):
            load(tmp_path / kind)


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_cut_short_or_of_another_index_are_refused(tmp_path, file):
    index = fresh("hnsw")
    index.delete(["i3"])
    save(index, tmp_path / "index")
    path = tmp_path / "index" / file
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DamagedIndexError, match="copy all of"):
        load(tmp_path / "index")
    path.unlink()
    with pytest.raises(DamagedIndexError, match="copy all of"):
        load(tmp_path / "index")


def test_an_index_file_of_another_kind_or_size_is_refused(tmp_path):
    for name, index in (("hnsw", fresh("hnsw")), ("flat", fresh("flat")), ("few", build(VECTORS[:9], IndexConfig()))):
        save(index, tmp_path / name)
    shutil.copy(tmp_path / "flat/index.faiss", tmp_path / "hnsw/index.faiss")
    with pytest.raises(DamagedIndexError, match=r"is a IndexFlatIP.*says 'hnsw'"):
        load(tmp_path / "hnsw")
    shutil.copy(tmp_path / "few/index.faiss", tmp_path / "flat/index.faiss")
    with pytest.raises(DamagedIndexError, match=r"holds 9 vectors of 12.*says 2000 of 12"):
        load(tmp_path / "flat")


def test_an_id_that_stands_twice_in_the_file_is_refused(tmp_path):
    save(build(VECTORS[:3], IndexConfig(), raw_ids=["a", "b", "c"]), tmp_path / "index")
    path = tmp_path / "index/item_ids.arrow"
    path.write_bytes(path.read_bytes().replace(b"abc", b"aba"))
    with pytest.raises(DuplicateItemsError, match="item 'a' stands in rows 0 and 2"):
        load(tmp_path / "index")


def test_a_later_format_is_refused(tmp_path):
    save(fresh("flat"), tmp_path / "index")
    path = tmp_path / "index/index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 9}))
    with pytest.raises(DamagedIndexError, match="format version 9, this Cascade reads 1"):
        load(tmp_path / "index")


def test_the_holder_refuses_what_does_not_fit_and_goes_on_with_what_it_had():
    identity = IndexIdentity("ab" * 32, VOCABULARY)
    first = fresh("flat", identity=identity)
    holder = IndexHolder(first, model="ab" * 32, vocabulary=VOCABULARY)
    narrow = build(VECTORS[:, :5], IndexConfig(), identity=identity)
    foreign = fresh("flat", identity=IndexIdentity("ff" * 32, VOCABULARY))
    newer = fresh("flat", identity=IndexIdentity("ab" * 32, {"number": 4, "sha256": "ee" * 32}))
    for error, index in ((OtherDimensionError, narrow), (ForeignModelError, foreign), (OtherVocabularyError, newer)):
        with pytest.raises(error):
            holder.swap(index)
        assert holder.current is first
    second = fresh("flat", identity=identity)
    assert holder.swap(second) is first and holder.current is second
    with pytest.raises(ForeignModelError):
        IndexHolder(foreign, model="ab" * 32, vocabulary=VOCABULARY)


def searching(answer, check, until: threading.Event) -> tuple[list[threading.Thread], list[object]]:
    """Threads that search and check until told to stop; the second list gets what went wrong."""
    wrong: list[object] = []

    def search_on() -> None:
        while not until.is_set():
            try:
                found = answer()
                if not check(found):
                    wrong.append(found)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=search_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    return threads, wrong


def test_searches_during_swaps_answer_wholly_from_the_one_or_the_other():
    two = [fresh("hnsw"), build(-VECTORS, config_of("hnsw"))]
    answers = {search(index, QUERIES, 20)[0].tobytes() for index in two}
    assert len(answers) == 2
    holder, stop = IndexHolder(two[0], model=None, vocabulary=None), threading.Event()
    threads, wrong = searching(
        lambda: search(holder.current, QUERIES, 20)[0].tobytes(), lambda found: found in answers, stop
    )
    for swap in range(300):
        holder.swap(two[swap % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_searches_during_changes_and_compaction_see_all_of_a_change_or_nothing():
    """Two items always exchange their places at once: one of them is the best, never both, never none."""
    index = build(VECTORS, IndexConfig(), raw_ids=[f"i{row}" for row in range(NUM_ITEMS)])
    best, worst = 100 * QUERIES[:1], -100 * QUERIES[:1]
    pair, stop = ["i3", "i8"], threading.Event()
    index.put(pair, np.concatenate([best, worst]))

    def is_whole(rows: list[int]) -> bool:
        return rows[0] in (3, 8) and len({3, 8} & set(rows)) == 1

    threads, wrong = searching(lambda: search(index, QUERIES[:1], 10)[0][0].tolist(), is_whole, stop)
    compacting = threading.Thread(target=lambda: [index.compact(builder(IndexConfig())) for _ in range(20)])
    compacting.start()
    for turn in range(301):
        index.put(pair, np.concatenate([best, worst] if turn % 2 else [worst, best]))
    compacting.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert search(index, QUERIES[:1], 1)[0].tolist() == [[8]]
