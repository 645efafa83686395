"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Embed, Input
from weft.graph.types import STRINGS
from weft.graph.values import VectorsValue
from weft.runtime.orchestrator.orchestrator import Orchestrator

from .bodies import IGNORED, EmbeddingBody
from .calls import Call, start
from .errors import ApiError
from .fields import Unsupported, read_body
from .incoming import in_turn, orchestrator_of, parsed, read
from .responses import while_connected
from .targets import unknown_model

__all__ = ["embeddings"]

_UNSUPPORTED: Final = {
    "dimensions": Unsupported("embeddings have the size that the model gives them; leave it out")
}


async def embeddings(request: Request) -> Response:
    """Embed texts. Raises ApiError."""
    raw = await read(request)
    async with in_turn(request):
        body = read_body(EmbeddingBody, parsed(raw), ignored=IGNORED, unsupported=_UNSUPPORTED)
        call = _started(orchestrator_of(request), body)
    (vectors,) = await while_connected(request, call.outputs(), call.cancel)
    assert isinstance(vectors, VectorsValue)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(row, body.encoding_format)}
        for index, row in enumerate(vectors.array)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # embedders do not count them
    answer = {"object": "list", "data": data, "model": body.model, "usage": usage}
    return JSONResponse(answer, headers={"x-request-id": call.id})


def _started(orchestrator: Orchestrator, body: EmbeddingBody) -> Call:
    """The run that answers a request. Raises ApiError."""
    embedder = orchestrator.fleet.deployment.embedder
    if not embedder:
        raise ApiError(503, "no worker that embeds is there; try again later")
    if body.model != embedder:
        raise unknown_model(body.model, [embedder])
    nodes = (Node(0, Input("texts", STRINGS)), Node(1, Embed(embedder), {"texts": Value(0)}))
    return start(orchestrator, Graph(nodes, (Value(1),), "embeddings"), {"texts": body.input})


def _encoded(row: NDArray[np.float32], encoding: str) -> Any:
    return row.tolist() if encoding == "float" else base64.b64encode(row.astype("<f4").tobytes()).decode()
