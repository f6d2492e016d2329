"""Pure functions of columns: correlations, paired tests, intervals."""
