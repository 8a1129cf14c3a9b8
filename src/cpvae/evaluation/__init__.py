"""Numbers: bounds, likelihood, clustering scores, quality of what is generated."""
