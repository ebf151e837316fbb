"""The routes of a server: its page, its predictions, and its explanations."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cnnforge.errors import UsageError
from cnnforge.prediction import Predictor
from cnnforge.serving.batches import Batches
from cnnforge.serving.explanation import Explainer
from cnnforge.serving.guard import FAILED, Access, Guard
from cnnforge.serving.limits import Limits, Refused
from cnnforge.serving.page import serve_page
from cnnforge.serving.pictures import check_picture
from cnnforge.tasks import prediction_options

_KEPT_PAGES = 4


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that a server states about itself.

    Attributes:
        run: Name of the run.
        model: Name of the model.
        task: Name of the task, without the plugin.
        version: Version of cnnforge.
    """

    run: str
    model: str
    task: str
    version: str


def make_app(
    predictor: Predictor,
    facts: Facts,
    *,
    access: Access,
    limits: Limits | None = None,
    options: Mapping[str, Any] | None = None,
    explainer: Explainer | None = None,
) -> Guard:
    """Make the application of a server.

    Args:
        predictor: The model.
        facts: Facts for `GET /health` and the page.
        access: The senders whose requests are answered.
        limits: The limits; `None` means the defaults.
        options: Prediction options of the task that the user chose, by name.
        explainer: Makes explanations; `None` if the task of the model has none.

    Returns:
        An ASGI application. The thread that predicts runs from now on.

    Raises:
        UsageError: The task does not have an option, or a value is not valid.
    """
    values = prediction_options(predictor.task, options or {})
    limits = limits or Limits()
    service = _Service(predictor, facts, limits, values, explainer)
    routes = [
        Route("/", service.page),
        Route("/health", service.health),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/explain", service.explain, methods=["POST"]),
        Route("/explained/{page}", service.explained),
    ]
    handlers: dict[Any, Any] = {
        Refused: _refused,
        HTTPException: _refused_by_starlette,
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, access)


class _Service:
    def __init__(
        self,
        predictor: Predictor,
        facts: Facts,
        limits: Limits,
        values: Mapping[str, Any],
        explainer: Explainer | None,
    ) -> None:
        self._predictor, self._facts, self._limits = predictor, facts, limits
        self._values, self._explainer = values, explainer
        self._batches = Batches(predictor, limits)
        self._batches.warm_up()
        self._pages: OrderedDict[str, str] = OrderedDict()
        self._explaining = False

    @property
    def _description(self) -> dict[str, Any]:
        facts, predictor = self._facts, self._predictor
        classes = getattr(predictor.task, "classes", None)
        return {
            "run": facts.run,
            "model": facts.model,
            "task": facts.task,
            "image": list(predictor.image_shape),
            "classes": None if classes is None else list(classes),
            "options": dict(self._values),
            "explains": self._explainer is not None,
            "max_bytes": self._limits.bytes,
            "max_pixels": self._limits.pixels,
        }

    async def page(self, request: Request) -> Response:
        made = serve_page(self._description)
        # The page has the same policy. Only a header can forbid frames.
        policy = f"{made.policy}; frame-ancestors 'none'"
        return HTMLResponse(made.text, headers={"content-security-policy": policy})

    async def health(self, request: Request) -> Response:
        known = {"status": "ok", "cnnforge": self._facts.version, **self._description}
        return JSONResponse(known)

    async def predict(self, request: Request) -> Response:
        _check_type(request)
        values = self._options(request)
        with self._batches.place():
            content = await _read(request, self._limits)
            row = await self._batches.predict(content, values)
        return JSONResponse(row.as_dict())

    async def explain(self, request: Request) -> Response:
        _check_type(request)
        if request.query_params:
            raise Refused(400, "an explanation has no options: leave out the text after '?'")
        if self._explainer is None:
            raise Refused(404, f"there are no explanations of the task {self._facts.task}")
        if self._explaining:
            raise Refused(503, "an explanation is being made: try again when it is ready")
        self._explaining = True
        try:
            content = await _read(request, self._limits)
            await asyncio.to_thread(check_picture, content, self._limits)
            text = await self._explainer.explain(content, self._limits.explain_seconds)
        finally:
            self._explaining = False
        name = secrets.token_urlsafe(16)
        self._pages[name] = text
        if len(self._pages) > _KEPT_PAGES:
            self._pages.popitem(last=False)
        place = f"/explained/{name}"
        return HTMLResponse(text, headers={"content-location": place, **_PAGE_POLICY})

    async def explained(self, request: Request) -> Response:
        text = self._pages.get(request.path_params["page"])
        if text is None:
            raise Refused(
                404, f"the page is gone: only the last {_KEPT_PAGES} explanations are kept"
            )
        return HTMLResponse(text, headers=_PAGE_POLICY)

    def _options(self, request: Request) -> Mapping[str, Any]:
        if not request.query_params:
            return self._values
        given = request.query_params.multi_items()
        if len(dict(given)) < len(given):
            raise Refused(400, "an option is there twice: leave one out")
        try:
            values = {name: _number(name, text) for name, text in given}
            return {**self._values, **_chosen(self._predictor, values)}
        except UsageError as error:
            raise Refused(400, str(error)) from None


# A page of an explanation has a policy of its own.
_PAGE_POLICY = {"content-security-policy": "frame-ancestors 'none'; form-action 'none'"}


def _chosen(predictor: Predictor, given: Mapping[str, Any]) -> Mapping[str, Any]:
    values = prediction_options(predictor.task, given)
    return {name: values[name] for name in given}


def _number(name: str, text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"{name[:40]!r} is {text[:40]!r}, expected an option with a number")


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/"):
        raise Refused(
            415,
            f"the content type is {kind[:80]!r}, expected image/png or another image: send the "
            "picture itself as the body, not a form, a path or an address",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body is compressed: send the picture as it is")


async def _read(request: Request, limits: Limits) -> bytes:
    """Read the body of a request, as far as it is allowed."""
    length = request.headers.get("content-length", "0")
    too_large = Refused(413, f"the picture has more than {limits.bytes:,} bytes: make it smaller")
    # A longer number is not converted: that would take time.
    if not length.isdecimal() or len(length) > 15 or int(length) > limits.bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the picture did not arrive within {limits.seconds:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "the client has gone") from None
    return b"".join(parts)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": error.message}, error.status, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    # The guard prints the reason.
    return JSONResponse({"error": FAILED}, 500)


async def _refused_by_starlette(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    path, method = request.url.path[:80], request.method[:20]
    text = {
        404: f"there is no {path!r}, only /, /health, /predict and /explain",
        405: f"{path} does not take {method}: send a picture with POST to /predict or /explain, "
        "and GET to everything else",
    }
    headers = getattr(error, "headers", None)
    return JSONResponse({"error": text.get(status, "refused")}, status, headers=headers)
