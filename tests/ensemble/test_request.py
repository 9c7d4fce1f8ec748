"""Every mistake a caller can make is a RequestError that says what and where; joining and splitting loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.request import (
    DEFAULT_K,
    FEATURE_TIME,
    MAX_EXCLUDE,
    MAX_ID_BYTES,
    MAX_K,
    Reply,
    Request,
    RequestError,
    decoded,
    join,
)


def texts(*ids):
    return np.array(ids, dtype=object)


def reply_to(request):
    """What a pipeline with a rule a user can check by hand answers: item i of user u is u.i, three candidates."""
    width = int(request.k.max())
    items = np.full((len(request), width), "", dtype=object)
    scores = np.full((len(request), width), -np.inf, dtype=np.float32)
    candidates = np.full((len(request), max(map(len, request.user_id))), "", dtype=object)
    for row, (user, k) in enumerate(zip(request.user_id, request.k, strict=True)):
        items[row, :k] = [f"{user}.{number}" for number in range(k)]
        scores[row, :k] = -np.arange(k)
        candidates[row, : len(user)] = list(user)
    return Reply(items, scores, np.exp(scores), request.user_id, candidates, candidates)


def test_defaults_are_ten_items_nothing_excluded_and_the_time_of_the_features():
    request = Request.of(["a", "b"])
    assert request.k.tolist() == [DEFAULT_K] * 2 and request.k.dtype == np.int64
    assert request.timestamp.tolist() == [FEATURE_TIME] * 2 and request.timestamp.dtype == np.int64
    assert [ids.tolist() for ids in request.exclude] == [[], []]
    assert not request.with_candidates and len(request) == 2


def test_text_bytes_lists_and_columns_mean_the_same():
    forms = [
        ["é", "b\n"],
        [np.str_("é"), "b\n"],
        ["é".encode(), b"b\n"],
        texts("é", "b\n")[:, None],
        np.array(["é", "b\n"]),
    ]
    for form in forms:
        request = Request.of(form, k=np.array([[1], [2]], dtype=np.int32), timestamp=[3, 4])
        assert request.user_id.tolist() == ["é", "b\n"]
        assert request.k.tolist() == [1, 2] and request.timestamp.tolist() == [3, 4]


def test_empty_exclude_entries_are_padding():
    request = Request.of(["a", "b"], exclude=np.array([[b"x", b"", b"y"], [b"", b"", b""]], dtype=object))
    assert [ids.tolist() for ids in request.exclude] == [["x", "y"], []]


def test_an_id_of_the_longest_length_is_counted_in_bytes():
    assert Request.of(["é" * (MAX_ID_BYTES // 2)]).user_id[0].startswith("é")
    with pytest.raises(
        RequestError, match=f"user_id row 1 may have at most {MAX_ID_BYTES} bytes, got {MAX_ID_BYTES + 2}"
    ):
        Request.of(["a", "é" * (MAX_ID_BYTES // 2 + 1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user_ids": []}, "at least one user, got none"),
        ({"user_ids": "u1"}, r"must be a list of ids, got 'u1'; put one id into a list"),
        ({"user_ids": 7}, "must be a list of ids, got 7"),
        ({"user_ids": ["a", ""]}, "user_id row 1 must be an id .* got an empty text"),
        ({"user_ids": ["a", None]}, "user_id row 1 .* got null"),
        ({"user_ids": ["a", float("nan")]}, "user_id row 1 .* got null"),
        ({"user_ids": ["a", 7]}, "user_id row 1 .* got int 7"),
        ({"user_ids": [b"a", b"\xff"]}, "user_id row 1 must be UTF-8"),
        ({"user_ids": [b"\xc3", b"\xa9"]}, "user_id row 0 must be UTF-8"),
        ({"user_ids": ["\ud800"]}, "user_id row 0 must be UTF-8"),
        ({"user_ids": np.array([["a", "b"]])}, r"shape \[B\] or \[B, 1\], got \[1, 2\]"),
        ({"user_ids": ["a"] * 65}, "at most 64 users in one request, got 65; split"),
        ({"k": 0}, f"k row 0 must be 1..{MAX_K}, got 0"),
        ({"k": -1}, "k row 0 must be"),
        ({"k": [5, MAX_K + 1]}, f"k row 1 must be 1..{MAX_K}, got {MAX_K + 1}"),
        ({"k": 2**70}, "k must be a 64-bit integer"),
        ({"k": 2.0}, "k must be a 64-bit integer.* got float64"),
        ({"k": True}, "k must be a 64-bit integer.* got bool"),
        ({"k": "5"}, "k must be a 64-bit integer"),
        ({"k": None}, "k must be a 64-bit integer"),
        ({"k": [1, 2, 3]}, r"one for each of 2 users, got shape \[3\]"),
        ({"k": [[1], [2, 3]]}, "k must be one integer, or one a user"),
        ({"timestamp": -2}, "timestamp row 0 must be -1..*got -2"),
        ({"timestamp": [1, 1_700_000_000_000]}, r"timestamp row 1 .*not milliseconds"),
        ({"timestamp": "now"}, "timestamp must be a 64-bit integer"),
        ({"exclude": ["x", "y"]}, r"exclude row 0 must be a list of item ids, got 'x'"),
        ({"exclude": "x"}, "one list of item ids for each user, got 'x'"),
        ({"exclude": [["x"]]}, "2 users, got 1 lists"),
        ({"exclude": [["x"], ["y", None]]}, "exclude row 1, entry 1 .* got null"),
        ({"exclude": [["x"], [b"\xff"]]}, "exclude row 1, entry 0 must be UTF-8"),
        ({"exclude": [["x" * 257], []]}, "exclude row 0, entry 0 may have at most 256 bytes, got 257"),
        ({"exclude": [["x"] * (MAX_EXCLUDE + 1), []]}, f"exclude row 0 may hold at most {MAX_EXCLUDE} item ids"),
        ({"exclude": np.array(["x", "y"])}, r"array of shape \[2\]"),
    ],
)
def test_a_bad_value_is_named_with_its_place(arguments, message):
    with pytest.raises(RequestError, match=message):
        Request.of(**{"user_ids": ["a", "b"], "max_batch_size": 64, **arguments})


requests = st.builds(
    lambda rows: Request.of(
        [user for user, _, _, _ in rows],
        [k for _, k, _, _ in rows],
        [items for _, _, items, _ in rows],
        [time for _, _, _, time in rows],
        with_candidates=True,
    ),
    st.lists(
        st.tuples(
            st.text("abc", min_size=1, max_size=4),
            st.integers(1, 6),
            st.lists(st.text("xy", min_size=1, max_size=2), max_size=3),
            st.integers(-1, 9),
        ),
        min_size=1,
        max_size=4,
    ),
)


@given(st.lists(requests, min_size=1, max_size=4))
def test_a_joined_run_split_again_equals_single_runs(asked):
    joined, slices = join(asked)
    whole = reply_to(joined)
    assert len(joined) == sum(map(len, asked))
    for request, rows in zip(asked, slices, strict=True):
        assert joined.timestamp[rows].tolist() == request.timestamp.tolist()
        assert [ids.tolist() for ids in joined.exclude[rows]] == [ids.tolist() for ids in request.exclude]
        part, alone = whole.rows(rows, int(request.k.max())), reply_to(request)
        for name in ("item_ids", "scores", "propensities", "source", "candidate_ids", "ranked_ids"):
            np.testing.assert_array_equal(getattr(part, name), getattr(alone, name), err_msg=name)


def test_candidates_another_caller_asked_for_are_dropped():
    reply = reply_to(Request.of(["abc", "d"])).rows(slice(0, 1), 2, with_candidates=False)
    assert reply.candidate_ids.shape == reply.ranked_ids.shape == (1, 0)
    assert reply.item_ids.tolist() == [["abc.0", "abc.1"]]


def test_joining_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one request"):
        join([])


@given(st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2), min_size=0, max_size=5))
def test_decoding_gives_the_text_back_whatever_it_holds(rows):
    rows = [[text.encode(errors="replace").decode() for text in row] for row in rows]
    encoded = np.array([[text.encode() for text in row] for row in rows], dtype=object).reshape(len(rows), 2)
    assert decoded(encoded).tolist() == rows
