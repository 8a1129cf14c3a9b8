"""Groups of points: communities of neighbours, and components of a mixture."""
