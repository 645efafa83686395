"""The Triton kernels; each module mirrors the one of the same name in `weft.kernels`."""
