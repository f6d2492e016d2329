"""Networks whose weights are spread over processes: each keeps its pieces, and nobody ever holds a whole vector."""
