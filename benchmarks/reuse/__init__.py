"""Policies that reuse the KV of passages out of their context, and what they do to answers."""
