"""The demo corpus, with contexts."""

from __future__ import annotations

from weft import Client
from weft.apps.reference_model.corpus import documents, has_index

from .program import fill, parts_of

__all__ = ["prepare"]


def prepare(client: Client) -> None:
    """Index the demo corpus with contexts, unless the server has it."""
    if not has_index(client, "contextual"):
        fill.using(client)([part for document in documents() for part in parts_of(document)])
