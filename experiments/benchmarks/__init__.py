"""The parts of `experiments/benchmark.py`, one file each, and what they are compared with."""
