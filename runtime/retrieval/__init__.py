"""Retrieval: documents into passages, passages into an index, and the best of them out again.

The order of the work: `documents`, `folders` over `formats`, `chunking` (texts) -> `embedder`, `hashing`
(vectors) -> `index` (storage) over `tables`, which `lance` keeps in a folder and `postgres` in a database,
and over `snapshot` and `bm25` (search) -> `fusion`, `rerank` (rankings).
Everything here is synchronous and takes batches; queues and threads belong to the worker that calls it.
"""
