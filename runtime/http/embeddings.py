"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Embed, Input
from weft.graph.types import STRINGS
from weft.graph.values import VectorsValue

from .bodies import IGNORED, EmbeddingBody
from .calls import start
from .errors import ApiError
from .fields import Unsupported, read_body
from .incoming import orchestrator_of, read_json
from .responses import while_connected
from .targets import unknown_model

__all__ = ["embeddings"]

_UNSUPPORTED: Final = {
    "dimensions": Unsupported("embeddings have the size that the model gives them; leave it out")
}


async def embeddings(request: Request) -> Response:
    """Embed texts. Raises ApiError."""
    body = read_body(EmbeddingBody, await read_json(request), ignored=IGNORED, unsupported=_UNSUPPORTED)
    orchestrator = orchestrator_of(request)
    embedder = orchestrator.fleet.deployment.embedder
    if not embedder:
        raise ApiError(503, "no worker that embeds is there; try again later")
    if body.model != embedder:
        raise unknown_model(body.model, [embedder])
    nodes = (Node(0, Input("texts", STRINGS)), Node(1, Embed(embedder), {"texts": Value(0)}))
    call = start(orchestrator, Graph(nodes, (Value(1),), "embeddings"), {"texts": body.input})
    (vectors,) = await while_connected(request, call.outputs(), call.cancel)
    assert isinstance(vectors, VectorsValue)
    rows = vectors.array.astype("<f4")
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": row.tolist()
            if body.encoding_format == "float"
            else base64.b64encode(row.tobytes()).decode(),
        }
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # embedders do not count them
    return JSONResponse(
        {"object": "list", "data": data, "model": body.model, "usage": usage},
        headers={"x-request-id": call.id},
    )
