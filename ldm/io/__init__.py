"""Model files in and out. The only place that knows the names other programs give things."""
