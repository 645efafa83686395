"""The orchestrator: a gRPC service that takes graphs, and an asyncio shell around the pure scheduler."""
