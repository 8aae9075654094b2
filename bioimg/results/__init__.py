"""A results folder: the columns of its tables, their storage on a disk or in an object store, their statistics."""
