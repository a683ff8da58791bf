"""Pictures and captions: shards on disk, recipes that make them, checks."""
