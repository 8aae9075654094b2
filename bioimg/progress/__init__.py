"""Listeners that show or record the progress of an experiment."""
