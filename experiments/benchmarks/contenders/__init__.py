"""What is held against each other: programs that do the same work in different ways, each run in a process of its own."""
