"""One engine per kind of primitive; each computes what is queued together in one batch."""
