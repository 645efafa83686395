"""Tensor parallelism: several processes, each with a part of a model's weights and of its KV."""
