"""Files and folders: local or in an object store, whole or not at all, checked when they are read."""
