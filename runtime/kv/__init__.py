"""The paged KV cache: slots, the radix tree that shares them, and the memory behind them."""
