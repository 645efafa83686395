"""Calls of tools: read from what a model writes, and forced on it. For the HTTP door and for programs."""
