"""One room for each vendor; they never see each other."""
