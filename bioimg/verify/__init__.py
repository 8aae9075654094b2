"""Compare a table that was edited by hand with the results."""
