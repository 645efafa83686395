"""The embedded default model, its demo corpus and questions with gold answers."""
