"""The operations, in three dialects: what users write, what workers run, and what both share."""
