"""The worker process: a gRPC host, and one engine per kind of primitive.

The way of a task: `host` (server) -> `session` (one orchestrator's stream) -> `runs` (waits for operands) ->
`engines` (computes) -> `session` (reports).
"""
