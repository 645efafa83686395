"""Running a model on a GPU: a mirrored page table, one transfer a step, and graphs of decodes."""
