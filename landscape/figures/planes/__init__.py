"""How planes of losses are drawn: contours, reliefs, surfaces to turn, movies."""
