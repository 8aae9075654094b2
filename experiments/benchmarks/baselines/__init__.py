"""Programs that do the same work in different ways, each run in a process of its own."""
