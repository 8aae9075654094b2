"""Check every node of a cluster before time or money is spent."""
