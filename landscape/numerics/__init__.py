"""Pure functions of tensors and numbers that know nothing of networks."""
