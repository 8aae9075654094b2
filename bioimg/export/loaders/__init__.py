"""Files that go into an exported folder as its load.py. They work without bioimg."""
