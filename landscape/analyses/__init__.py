"""From what people point at to a stored result: one opening, one way to compute, one store."""
