"""The HTTP door: OpenAI's API and what SGLang's frontend calls, both as graphs for the orchestrator."""
