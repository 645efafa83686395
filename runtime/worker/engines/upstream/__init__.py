"""Models that an OpenAI-compatible server runs: prompts go there as token ids, texts come back in pieces."""
