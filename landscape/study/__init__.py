"""Studies: a table of trainings, measures of each, and statistics that can say no."""
