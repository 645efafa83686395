"""The routes of the door."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from weft.runtime.orchestrator.orchestrator import Orchestrator
from weft.runtime.telemetry.metrics import Metrics

from .chat import chat_completions
from .completions import completions
from .embeddings import embeddings
from .errors import ApiError
from .gate import CLIENT_CLOSED, Gate
from .incoming import orchestrator_of
from .responses import Gone, error_response
from .sglang import flush_cache, generate, model_info
from .targets import model_cards, unknown_model

__all__ = ["build_app", "metrics_app"]

_MODELS: Final = "/v1/models/"
_A_MODEL: Final = f"{_MODELS}{{name:path}}"
_OTHER: Final = "other"


def build_app(
    orchestrator: Orchestrator, api_key: str | None, metrics: Metrics, *, exposed: bool = True
) -> ASGIApp:
    """The application; without an `api_key` it is open to everybody.

    Requests are counted in the `metrics`, which are there for everybody if they are `exposed`.
    """
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", _models),
            Route(_A_MODEL, _model),
            Route("/get_model_info", model_info),
            Route("/model_info", model_info),
            Route("/generate", generate, methods=["POST", "PUT"]),
            Route("/flush_cache", flush_cache, methods=["GET", "POST"]),
            Route("/health", _health),
            Route("/ready", _ready),
            *([_metrics_route(metrics)] if exposed else []),
        ],
        exception_handlers={
            ApiError: _api_error,
            Gone: lambda request, problem: Response(status_code=CLIENT_CLOSED),
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.orchestrator = orchestrator
    app.state.turn = asyncio.Lock()
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route))
    return Gate(app, api_key, partial(_note, metrics, paths))


def metrics_app(metrics: Metrics) -> ASGIApp:
    """An application that has nothing but the metrics."""
    return Starlette(routes=[_metrics_route(metrics)])


def _metrics_route(metrics: Metrics) -> Route:
    async def scrape(request: Request) -> Response:
        text, content_type = await metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Route("/metrics", scrape)


def _note(metrics: Metrics, paths: frozenset[str], path: str, status: int, seconds: float) -> None:
    """Count a request; of paths, which clients may make up, only those that are routes are told apart."""
    route = _A_MODEL if path.startswith(_MODELS) else path if path in paths else _OTHER
    metrics.requests.note(route, status, seconds)


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": model_cards(orchestrator_of(request))})


async def _model(request: Request) -> Response:
    cards = {card["id"]: card for card in model_cards(orchestrator_of(request))}
    name = request.path_params["name"]
    if name not in cards:
        raise unknown_model(name, list(cards))
    return JSONResponse(cards[name])


async def _health(request: Request) -> Response:
    """The process lives."""
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Every model of the settings is there."""
    orchestrator = orchestrator_of(request)
    offered = orchestrator.fleet.deployment.models
    missing = [model.name for model in orchestrator.settings.models if model.name not in offered]
    if missing:
        return JSONResponse({"status": "waiting", "missing": missing}, 503)
    return JSONResponse({"status": "ok"})


async def _api_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return error_response(problem)


async def _http_error(request: Request, problem: Exception) -> Response:
    """An unknown path, or a wrong method."""
    assert isinstance(problem, HTTPException)
    where = f"{request.method} {request.url.path}"
    error = ApiError(problem.status_code, f"{where}: {problem.detail.lower()}; see docs/http.md")
    response = error_response(error)
    response.headers.update(problem.headers or {})
    return response


async def _unexpected(request: Request, problem: Exception) -> Response:
    """A mistake of weft's own; the server's log has the traceback."""
    return error_response(ApiError(500, f"{type(problem).__name__}: {problem}", code="internal"))
