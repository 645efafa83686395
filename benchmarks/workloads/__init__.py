"""The workloads of the optimizer's benchmark, each as one program and as the modules that it consists of."""
