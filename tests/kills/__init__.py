"""Kill random processes of a small run, start it again, and compare its files with those of a run that nobody killed."""
