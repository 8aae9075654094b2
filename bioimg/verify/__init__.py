"""Check tables that were edited by hand against the results."""
