"""From a plane in weight space to arrays: which points, their passes, and what is kept of them."""
