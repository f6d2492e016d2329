"""Random estimators of a symmetric operator's trace, diagonal, norm and density, with standard errors."""
