"""The mover beside other backup programs, on one image in one run: `make bench`."""
