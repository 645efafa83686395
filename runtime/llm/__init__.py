"""The LLM engine: model, batch planner, sampling, grammar, tokenizing."""
