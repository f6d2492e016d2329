"""Products as differences of gradients: the steps, their measured error, and when they stand in for exact ones."""
