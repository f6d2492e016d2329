"""Networks laid over each other by permuting hidden units."""
