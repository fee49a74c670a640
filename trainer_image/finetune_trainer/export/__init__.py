"""Stage `export`: from a committed checkpoint to files that any library loads, checked before they are published."""
