"""Systems beside each other on the same workloads: measuring, summing up, showing."""
