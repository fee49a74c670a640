"""What the benchmarks have in common: their command line, scratch folders, readings of the machine, README tables."""
