"""The page's routes over real sockets: answers, errors, and what keeps other sites out."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pytest

from pipelines.explore.question import Question


def call(address: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, headers and body; JSON as what it says."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, headers or {"content-type": "application/json"})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read().decode()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, response.headers, json.loads(text) if is_json else text


@pytest.fixture(scope="module")
def user(explorer) -> str:
    return explorer.tables.users("customer-00001")[0].id


def test_the_page_is_served_and_loads_nothing_from_elsewhere(address):
    for path, kind in (("", "text/html"), ("explore.css", "text/css"), ("explore.js", "text/javascript")):
        status, headers, text = call(address, path)
        assert status == 200 and headers["content-type"].startswith(kind)
        assert "http:" not in text and "https:" not in text and "//cdn" not in text
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert "innerHTML" not in text and "eval(" not in text


def test_answers_are_what_the_explorer_says(address, explorer, user):
    assert call(address, "api/about")[2] == {"runs": [json.loads(json.dumps(explorer.about()))]}
    assert call(address, "api/users?q=customer-00001")[2][0]["id"] == user
    assert call(address, f"api/user?id={user}")[2]["id"] == user
    slate = explorer.slate(Question(user=user))
    told = call(address, "api/slate", {"user": user})[2]
    assert [one["item"]["id"] for one in told["items"]] == [one.item.id for one in slate.items]
    assert [one["score"] for one in told["items"]] == [one.score for one in slate.items]
    item = slate.next[0].item.id
    assert call(address, "api/why", {"user": user, "item": item})[2]["verdict"] == "outranked"
    assert len(call(address, f"api/similar?id={item}&k=3")[2]) == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("api/slate", b"{", 400, "Invalid JSON"),
        ("api/slate", b"[]", 400, "body"),
        ("api/slate", b"\xff", 400, "body"),
        ("api/slate", {"user": ""}, 400, "user: String should have at least 1 character"),
        ("api/slate", {"user": "u", "k": 0}, 400, "k: Input should be greater than or equal to 1"),
        ("api/slate", {"user": "u", "k": "ten"}, 400, "k: Input should be a valid integer"),
        ("api/slate", {"user": "u", "colour": 1}, 400, "colour: Unexpected keyword"),
        ("api/slate", {"user": "u" * 300}, 400, "user_id row 0"),
        ("api/slate", {"user": "u", "temperature": -1}, 400, "temperature must be a number 0..1000"),
        ("api/slate", {"user": "u", "rules": ["price <"]}, 400, "price <"),
        ("api/slate", {"user": "u", "rules": ["__import__('os')"]}, 400, "rule"),
        ("api/slate", {"user": "u", "clicks": ["no such"]}, 404, "has no item"),
        ("api/slate", {"user": "u", "run": 1}, 404, "start with --against"),
        ("api/slate", {"user": "u", "exclude": ["x" * 1_000] * 2_000}, 400, "at most 1,000,000 bytes"),
        ("api/why", {"user": "u"}, 400, "name the item"),
        ("api/why", {"user": "u", "item": "no such"}, 404, "has no item"),
        ("api/user?id=nobody", None, 404, "has no user 'nobody'"),
        ("api/user", None, 400, "id must be a text"),
        ("api/users?q=" + "x" * 300, None, 400, "at most 256 characters"),
        ("api/items?q=x&run=2", None, 404, "run must be 0..0"),
        ("api/similar?id=0100000001&k=1e9", None, 400, "k must be a whole number"),
        ("api/similar?id=0100000001&k=999999", None, 400, "k must be 1..100"),
        ("api/similar?id=nothing", None, 404, "has no item"),
        ("api/image?id=0100000001", None, 404, "no picture"),
        ("api/image?id=../../etc/passwd", None, 404, "no picture"),
        ("api/nothing", None, 404, "GET /api/nothing: Not Found"),
        ("../etc/passwd", None, 404, "Not Found"),
        ("api/slate", None, 405, "Method Not Allowed"),
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_an_error_as_json_and_the_server_goes_on(address, user, path, body, status, said):
    got, headers, answer = call(address, path, body)
    assert got == status and headers["content-type"] == "application/json"
    assert list(answer) == ["error"] and said in answer["error"]
    assert len(call(address, "api/slate", {"user": user})[2]["items"]) == 10


def test_a_defect_is_an_error_without_its_insides(address, explorer, user, monkeypatch, caplog):
    monkeypatch.setattr(explorer, "slate", lambda question: 1 / 0)
    status, _, answer = call(address, "api/slate", {"user": user})
    assert status == 500 and answer == {"error": "the explorer failed; its log says why"}
    assert "division by zero" in caplog.text
    monkeypatch.undo()
    assert call(address, "api/slate", {"user": user})[0] == 200


def test_another_site_cannot_ask(address, user):
    host = urllib.parse.urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", "/api/about", headers={"Host": "evil.example:80"})
    assert connection.getresponse().status == 400
    connection.close()
    status, _, answer = call(address, "api/slate", {"user": user}, {"content-type": "text/plain"})
    assert status == 400 and "content-type: application/json" in answer["error"]
    assert "access-control-allow-origin" not in call(address, "api/about")[1]
