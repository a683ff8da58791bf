"""Reports of a training: logs, trackers, status and validation."""
