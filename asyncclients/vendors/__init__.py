"""One package for each vendor; none imports another."""
