"""Applications as plans: what is asked of models, indexes and tools, whatever framework runs it."""
