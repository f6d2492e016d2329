"""What the optimizers stand on: the two passes, closures, wrappers of torch's optimizers, building by name."""
