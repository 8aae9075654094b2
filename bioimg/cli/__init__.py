"""The commands: one module for each, and the flags made from the dataclasses."""
