"""Turn image files of any supported format into arrays."""
