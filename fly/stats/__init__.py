"""Statistics of paired scores and of speed.  They need numpy, scipy and statsmodels alone."""
