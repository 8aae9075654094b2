"""A results folder: the columns of its tables, their storage, and their statistics."""
