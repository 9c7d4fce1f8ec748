"""The page's routes: files of the package, and JSON. Whatever is wrong comes back as {"error": text}."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from features.errors import CascadeError
from pipelines.explore.explorer import Explorer
from pipelines.explore.question import ExploreError, Question, UnknownError

MAX_BODY_BYTES = 1_000_000
MAX_QUERY = 256
"""Most characters of a search."""
LOOPBACK = ("127.0.0.1", "localhost")
_PAGE = {"": ("index.html", "text/html"), "explore.css": ("explore.css", "text/css")} | {
    "explore.js": ("explore.js", "text/javascript")
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_log = logging.getLogger(__name__)


def app_of(explorers: Sequence[Explorer], hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The application.

    Args:
        explorers: of the run, and of the one it is compared with if there is one.
        hosts: names under which the page may be asked for: another site cannot make one of its own lead here.
    """

    def explorer(number: Any) -> Explorer:
        if str(number) not in map(str, range(len(explorers))):
            raise UnknownError(f"run must be 0..{len(explorers) - 1}, got {number}; start with --against for another")
        return explorers[int(number)]

    def asked(request: Request) -> Explorer:
        return explorer(request.query_params.get("run", "0"))

    def about(request: Request) -> Any:
        return {"runs": [one.about() for one in explorers]}

    def users(request: Request) -> Any:
        return asked(request).tables.users(_text(request, "q"))

    def items(request: Request) -> Any:
        return asked(request).tables.items(_text(request, "q"))

    def user(request: Request) -> Any:
        return asked(request).user(_text(request, "id"))

    def similar(request: Request) -> Any:
        found = asked(request).similar(_text(request, "id"), _whole(request, "k", 10))
        return [{"item": item, "cosine": cosine} for item, cosine in found]

    def image(request: Request) -> Response:
        path = asked(request).images.path(_text(request, "id"))
        if path is None:
            raise UnknownError("there is no picture of the item")
        return FileResponse(path)

    def slate(question: Question) -> Any:
        return explorer(question.run).slate(question)

    def why(question: Question) -> Any:
        return explorer(question.run).reason(question)

    gets: list[Callable[[Request], Any]] = [about, users, items, user, similar, image]
    routes = [Route(f"/{name}", _page(*file)) for name, file in _PAGE.items()]
    routes += [Route(f"/api/{one.__name__}", _get(one), methods=["GET"]) for one in gets]
    routes += [Route(f"/api/{one.__name__}", _post(one), methods=["POST"]) for one in (slate, why)]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={CascadeError: _refused, HTTPException: _not_there, Exception: _broken},
    )


def _page(name: str, media_type: str) -> Callable:
    async def endpoint(request: Request) -> Response:
        text = (files("pipelines.explore") / "page" / name).read_text()
        return Response(text, headers=_HEADERS, media_type=media_type)

    return endpoint


def _get(answer: Callable[[Request], Any]) -> Callable:
    async def endpoint(request: Request) -> Response:
        return _json(await run_in_threadpool(answer, request))

    return endpoint


def _post(answer: Callable[[Question], Any]) -> Callable:
    async def endpoint(request: Request) -> Response:
        # A page of another site may send a form here, but no JSON without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise ExploreError("the body must be JSON, with content-type: application/json")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise ExploreError(f"the body must have at most {MAX_BODY_BYTES:,} bytes")
        return _json(await run_in_threadpool(lambda: answer(Question.read(body))))

    return endpoint


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name)
    if text is None or len(text) > MAX_QUERY:
        raise ExploreError(f"{name} must be a text of at most {MAX_QUERY} characters, got {text and len(text)}")
    return text


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ExploreError(f"{name} must be a whole number, got {text!r:.40}")
    return int(text)


def _json(answer: Any, status: int = 200) -> Response:
    if isinstance(answer, Response):
        answer.headers.update(_HEADERS)
        return answer
    text = json.dumps(_plain(answer), ensure_ascii=False, allow_nan=False)
    return Response(text, status, _HEADERS, "application/json")


def _plain(value: Any) -> Any:
    """As JSON has it; numbers that are none are null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def _refused(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 404 if isinstance(error, UnknownError) else 400)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    _log.error("%s failed", request.url.path, exc_info=error)
    return _json({"error": "the explorer failed; its log says why"}, 500)
