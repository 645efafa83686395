"""Torch reference kernels of the LLM engine, on CPU and CUDA; Triton kernels share their signatures."""
