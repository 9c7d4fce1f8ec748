"""What callers ask and what they get: the typed edge of the request path.

Raw ids in, raw ids out. Everything a caller can get wrong ends here, in a RequestError that names the field and the
row, so the operators behind it never see a bad value.

Legend: B users  k items of a slate  C candidates of a user
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from features.errors import CascadeError

MAX_ID_BYTES = 256
"""Longest user or item id, in bytes of UTF-8."""
MAX_K = 1000
"""Most items one user can ask for."""
MAX_EXCLUDE = 10_000
"""Most items one user can exclude."""
MAX_TIMESTAMP = 253_402_300_799
"""Unix seconds of the last second of the year 9999; anything later is a mistake of unit."""
DEFAULT_K = 10
"""Items in a slate when the caller does not say."""
FEATURE_TIME = -1
"""The timestamp that stands for the time the features were made."""
MAX_ALLOW = 10_000
"""Most items one user's slate can be restricted to."""
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 1_000.0
MAX_TIMEOUT_MS = 60_000

_NOTHING = np.empty(0, dtype=object)
_OF_EXCLUDE = "send the most recent ones: items of the user's history are dropped without being sent"
_OF_ALLOW = "send the ones that matter most, or leave it out and write a rule over item attributes"
_MAX_BYTES_PER_CHARACTER = 4


class RequestError(CascadeError, ValueError):
    """A request that cannot be served as it stands: what was expected, what came, where, and what to do."""


@dataclass(frozen=True, eq=False)
class Request:
    """A question for B users. Build it with `Request.of`, which checks; the constructor does not."""

    user_id: np.ndarray
    """[B] object of str: ids as the log has them."""
    k: np.ndarray
    """[B] int64: items wanted, 1..MAX_K."""
    exclude: list[np.ndarray]
    """B arrays of object of str: item ids never to show this user; may be empty."""
    timestamp: np.ndarray
    """[B] int64: Unix seconds of the request; FEATURE_TIME is the time the features were made."""
    allow: list[np.ndarray | None]
    """B arrays of object of str: the only item ids that this user may get; None for all."""
    seed: np.ndarray
    """[B] int64: of all chance in this user's slate."""
    temperature: np.ndarray
    """[B] float32: of sampling, 0 for none; nan for what is configured."""
    diversity: np.ndarray
    """[B] float32 in 0..1: weight of being unlike the items before; nan for what is configured."""
    deadline: np.ndarray
    """[B] float64: `time.monotonic()` after which the reply must be on its way; inf for none."""
    with_candidates: bool = False
    """Whether the reply must carry candidate_ids and ranked_ids."""

    @classmethod
    def of(
        cls,
        user_ids: Sequence[str | bytes] | np.ndarray,
        k: int | Sequence[int] | np.ndarray = DEFAULT_K,
        exclude: Sequence[Sequence[str | bytes]] | np.ndarray | None = None,
        timestamp: int | Sequence[int] | np.ndarray | None = None,
        *,
        allow: Sequence[Sequence[str | bytes] | None] | np.ndarray | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        diversity: float | None = None,
        timeout_ms: int | None = None,
        with_candidates: bool = False,
        max_batch_size: int | None = None,
    ) -> Self:
        """Check a caller's values and bring them into one form.

        Args:
            user_ids: B ids, [B] or [B, 1], text or UTF-8 bytes.
            k: one number for all users, or one a user, [B] or [B, 1].
            exclude: B lists of item ids of any length, or [B, N]; "" entries are padding and are dropped.
            timestamp: Unix seconds, one for all users or one a user; None is the time the features were made.
            allow: B lists of the only item ids each user may get, or [B, N] with "" as padding; an empty list, like
                None, allows everything.
            seed: of all chance, 0..2**63 - 1; a user's slate depends on it and on the user's id. None draws one.
            temperature: of sampling, 0 for the best-scored items; None for what is configured.
            diversity: 0..1, weight of being unlike the items before; None for what is configured.
            timeout_ms: milliseconds from now after which the best reply so far is given; None for no limit.
            with_candidates: ask for candidate_ids and ranked_ids too.
            max_batch_size: most users of one request; None for no limit.
        Raises: RequestError for every value that cannot be served.
        """
        users = _user_ids(user_ids, max_batch_size)
        size = len(users)
        return cls(
            user_id=users,
            k=_integers(k, "k", size, 1, MAX_K, "ask for at least one item, and for more with a second request"),
            exclude=_excludes(exclude, size),
            timestamp=_integers(
                FEATURE_TIME if timestamp is None else timestamp,
                "timestamp",
                size,
                FEATURE_TIME,
                MAX_TIMESTAMP,
                "give Unix seconds (not milliseconds), or leave it out for the time the features were made",
            ),
            allow=_allows(allow, size),
            seed=_seeds(seed, size),
            temperature=_number(temperature, "temperature", size, MAX_TEMPERATURE),
            diversity=_number(diversity, "diversity", size, 1.0),
            deadline=_deadlines(timeout_ms, size),
            with_candidates=with_candidates,
        )

    def __len__(self) -> int:
        """B, the number of users."""
        return len(self.user_id)

    def rows(self, rows: slice) -> Request:
        """The request of some of the users."""
        per_user = {name: getattr(self, name)[rows] for name in _per_user()}
        return Request(**per_user, with_candidates=self.with_candidates)


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer for B users; k is the largest k of the request, rows that asked for less are padded."""

    item_ids: np.ndarray
    """[B, k] object of str, best first; "" pads."""
    scores: np.ndarray
    """[B, k] float32, unbounded; -inf pads."""
    propensities: np.ndarray
    """[B, k] float32 in [0, 1]: chance that sampling put the item there; 0 pads."""
    source: np.ndarray
    """[B] object of str: personal, cold, fallback or degraded."""
    candidate_ids: np.ndarray
    """[B, C] object of str: retrieval order after the filters; "" pads. C is the longest row; 0 if not asked for."""
    ranked_ids: np.ndarray
    """[B, C] object of str: the same candidates in the ranker's order; "" pads."""

    def __len__(self) -> int:
        """B, the number of users."""
        return len(self.source)

    def rows(self, rows: slice, k: int, with_candidates: bool = True) -> Reply:
        """The part of a joined reply that belongs to one caller, as wide as if the caller had asked alone.

        Args:
            rows: the caller's users, one of the slices of `join`.
            k: largest k of the caller's request.
            with_candidates: False drops the candidates another caller asked for.
        """
        candidates, ranked = self.candidate_ids[rows], self.ranked_ids[rows]
        return Reply(
            item_ids=self.item_ids[rows, :k],
            scores=self.scores[rows, :k],
            propensities=self.propensities[rows, :k],
            source=self.source[rows],
            candidate_ids=candidates[:, : _filled_width(candidates) if with_candidates else 0],
            ranked_ids=ranked[:, : _filled_width(ranked) if with_candidates else 0],
        )


def join(requests: Sequence[Request]) -> tuple[Request, list[slice]]:
    """One request for the users of all, and the rows of each, for `Reply.rows`.

    Raises: ValueError if there is no request.
    """
    if not requests:
        raise ValueError("join needs at least one request, got none")
    ends = np.cumsum([len(request) for request in requests]).tolist()
    slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if len(requests) == 1:
        return requests[0], slices
    per_user = {name: _end_to_end([getattr(request, name) for request in requests]) for name in _per_user()}
    return Request(**per_user, with_candidates=any(request.with_candidates for request in requests)), slices


def padded(lists: Sequence[Sequence[str] | np.ndarray | None]) -> np.ndarray:
    """[B, N] object of str: lists of ids, one a user, as wide as the longest; "" pads. None is an empty list."""
    width = max((0 if ids is None else len(ids) for ids in lists), default=0)
    array = np.full((len(lists), width), "", dtype=object)
    for row, ids in zip(array, lists, strict=True):
        if ids is not None:
            row[: len(ids)] = ids
    return array


def decoded(ids: np.ndarray) -> np.ndarray:
    """The same array with UTF-8 bytes as text.

    Raises: UnicodeDecodeError if an entry is not UTF-8.
    """
    return _object_array(_decode_all(ids.ravel().tolist())).reshape(ids.shape)


def _per_user() -> list[str]:
    """Fields of a Request with an entry for each user."""
    return [field.name for field in fields(Request) if field.name != "with_candidates"]


def _end_to_end(parts: list[Any]) -> Any:
    return [row for part in parts for row in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _user_ids(user_ids: Any, max_batch_size: int | None) -> np.ndarray:
    if isinstance(user_ids, (str, bytes)) or not isinstance(user_ids, Iterable):
        raise RequestError(f"user_id must be a list of ids, got {user_ids!r}; put one id into a list: [id]")
    if isinstance(user_ids, np.ndarray):
        if user_ids.ndim != 1 and user_ids.shape[1:] != (1,):
            raise RequestError(f"user_id must have shape [B] or [B, 1], got {list(user_ids.shape)}; give one id a user")
        user_ids = user_ids.ravel()
    raw = _as_list(user_ids)
    if not raw:
        raise RequestError("user_id must name at least one user, got none; leave out requests without users")
    if max_batch_size is not None and len(raw) > max_batch_size:
        raise RequestError(
            f"user_id may name at most {max_batch_size} users in one request, got {len(raw)}; "
            "split the request (RecommendClient.recommend_all does), or raise export.max_batch_size"
        )
    texts = _texts(raw, "user_id row {}")
    if "" in texts:
        raise RequestError(
            f"user_id row {texts.index('')} must be an id as the log has it, got an empty text; "
            "leave the row out, or send an id the log does not have to get the fallback"
        )
    return _object_array(texts)


def _excludes(exclude: Any, size: int) -> list[np.ndarray]:
    if exclude is None:
        return [_NOTHING] * size
    rows = _lists_of_items(exclude, "exclude", size)
    return [_item_ids(row, "exclude", number, MAX_EXCLUDE, _OF_EXCLUDE) for number, row in enumerate(rows)]


def _allows(allow: Any, size: int) -> list[np.ndarray | None]:
    if allow is None:
        return [None] * size
    rows = _lists_of_items(allow, "allow", size)
    lists = [
        _NOTHING if row is None else _item_ids(row, "allow", number, MAX_ALLOW, _OF_ALLOW)
        for number, row in enumerate(rows)
    ]
    return [row if len(row) else None for row in lists]


def _lists_of_items(values: Any, name: str, size: int) -> list[Any]:
    what = f"{name} must hold one list of item ids for each user"
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise RequestError(f"{what}, got {values!r}; give [[item, ...], ...]")
    if isinstance(values, np.ndarray) and values.dtype != object and values.ndim != 2:
        raise RequestError(f'{what}, got an array of shape {list(values.shape)}; give [B, N] with "" as padding')
    rows = _as_list(values)
    if len(rows) != size:
        raise RequestError(f"{what}: {size} users, got {len(rows)} lists; give [] to users without any")
    return rows


def _item_ids(row: Any, name: str, number: int, limit: int, advice: str) -> np.ndarray:
    if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
        raise RequestError(f"{name} row {number} must be a list of item ids, got {row!r}; give [[item, ...], ...]")
    raw = _as_list(row)
    if not raw:
        return _NOTHING
    texts = _texts(raw, f"{name} row {number}, entry {{}}")
    if "" in texts:
        texts = [text for text in texts if text]
    if len(texts) > limit:
        raise RequestError(f"{name} row {number} may hold at most {limit} item ids, got {len(texts)}; {advice}")
    return _object_array(texts)


def _seeds(seed: Any, size: int) -> np.ndarray:
    if seed is None:
        return np.full(size, secrets.randbits(63), dtype=np.int64)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:
        raise RequestError(f"seed must be an integer 0..{MAX_SEED}, got {seed!r:.80}; leave it out to have one drawn")
    return np.full(size, seed, dtype=np.int64)


def _number(value: Any, name: str, size: int, high: float) -> np.ndarray:
    if value is None:
        return np.full(size, np.nan, dtype=np.float32)
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= high:  # nan is not
        raise RequestError(
            f"{name} must be a number 0..{high:g}, got {value!r:.80}; leave it out for what is configured"
        )
    return np.full(size, value, dtype=np.float32)


def _deadlines(timeout_ms: Any, size: int) -> np.ndarray:
    if timeout_ms is None:
        return np.full(size, np.inf)
    is_number = isinstance(timeout_ms, (int, np.integer)) and not isinstance(timeout_ms, bool)
    if not is_number or not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise RequestError(
            f"timeout_ms must be an integer 1..{MAX_TIMEOUT_MS}, got {timeout_ms!r:.80}; "
            "leave it out for what is configured"
        )
    return np.full(size, time.monotonic() + timeout_ms / 1e3)


def _integers(values: Any, name: str, size: int, low: int, high: int, advice: str) -> np.ndarray:
    """[size] int64 within low..high from one number or one a user."""
    if type(values) is int and low <= values <= high:  # the common case
        return np.full(size, values, dtype=np.int64)
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal length
        raise RequestError(f"{name} must be one integer, or one a user, got {values!r}; {advice}") from error
    if array.dtype.kind not in "iu":
        came = f"{array.dtype} ({values!r:.80})"
        raise RequestError(f"{name} must be a 64-bit integer, or one a user, got {came}; {advice}")
    if array.shape not in ((), (size,), (size, 1)):
        raise RequestError(
            f"{name} must be one integer, or one for each of {size} users, got shape {list(array.shape)}"
        )
    array = np.broadcast_to(array.ravel(), (size,))
    wrong = (array < low) | (array > high)
    if wrong.any():
        row = int(wrong.argmax())
        raise RequestError(f"{name} row {row} must be {low}..{high}, got {array[row]}; {advice}")
    return array.astype(np.int64)


def _texts(raw: list[Any], where: str) -> list[str]:
    """Ids as text, checked; `where` formats an entry's number into its place in the request."""
    kinds = set(map(type, raw))
    try:
        if kinds == {str}:
            "".join(raw).encode()  # half a surrogate pair has no UTF-8 form
            texts = raw
        elif kinds == {bytes}:
            texts = _decode_all(raw)
        else:
            texts = None
    except UnicodeError:
        texts = None
    if texts is None:  # something is wrong, or of a rarer type: go one by one to say which
        texts = [_text(value, where.format(number)) for number, value in enumerate(raw)]
    if max(map(len, texts)) > MAX_ID_BYTES // _MAX_BYTES_PER_CHARACTER:
        for number, text in enumerate(texts):
            num_bytes = len(text.encode())
            if num_bytes > MAX_ID_BYTES:
                raise RequestError(
                    f"{where.format(number)} may have at most {MAX_ID_BYTES} bytes, got {num_bytes} "
                    f"({text[:32]!r}...); send the id as the log has it"
                )
    return texts


def _text(value: Any, where: str) -> str:
    if not isinstance(value, (str, bytes)):
        missing = value is None or (isinstance(value, float) and value != value)
        came = "null" if missing else f"{type(value).__name__} {value!r:.80}"
        raise RequestError(f"{where} must be an id as text, got {came}; send the id as the log has it, as text")
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text.encode()
    except UnicodeError as error:
        raise RequestError(f"{where} must be UTF-8, got {value[:32]!r} ({error.reason}); encode it as UTF-8") from error
    return text


def _decode_all(raw: list[bytes]) -> list[str]:
    """Decode in one go; an id that holds the separator itself sends the list through the slow way."""
    texts = b"\n".join(raw).decode().split("\n")
    return texts if len(texts) == len(raw) else [value.decode() for value in raw]


def _as_list(values: Iterable[Any]) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _object_array(texts: list[str]) -> np.ndarray:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _filled_width(ids: np.ndarray) -> int:
    """Columns up to the last one that is not padding in every row."""
    filled = (ids != "").any(axis=0)
    return int(filled.nonzero()[0][-1]) + 1 if filled.any() else 0
