"""Statistics of paired scores and of speed, on numpy, scipy and statsmodels alone."""
