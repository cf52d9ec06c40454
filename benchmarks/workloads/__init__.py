"""The workloads: what to measure and how, one module each. benchmarks/groups/ says which belong together."""
