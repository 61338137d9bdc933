"""What the tests of the store share. A new kind of store is plugged in in `kinds.py` and nowhere else."""
