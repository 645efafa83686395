"""The routes of the door."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from weft.runtime.orchestrator.orchestrator import Orchestrator

from .chat import chat_completions
from .completions import completions
from .embeddings import embeddings
from .errors import ApiError
from .gate import Gate
from .incoming import orchestrator_of
from .responses import Gone, error_response
from .sglang import flush_cache, generate, model_info
from .targets import model_cards, unknown_model

__all__ = ["build_app"]

_CLIENT_CLOSED: int = 499  # for the log; nobody receives it


def build_app(orchestrator: Orchestrator, api_key: str | None) -> ASGIApp:
    """The application; without an `api_key` it is open to everybody."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/get_model_info", model_info),
            Route("/model_info", model_info),
            Route("/generate", generate, methods=["POST", "PUT"]),
            Route("/flush_cache", flush_cache, methods=["GET", "POST"]),
            Route("/health", _health),
            Route("/ready", _ready),
        ],
        exception_handlers={
            ApiError: _api_error,
            Gone: lambda request, problem: Response(status_code=_CLIENT_CLOSED),
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.orchestrator = orchestrator
    app.state.turn = asyncio.Lock()
    return Gate(app, api_key)


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
