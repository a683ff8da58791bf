"""Files on disk: atomic writing, locks between processes, leftovers of killed writers."""
