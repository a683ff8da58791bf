"""Recipes: each builds one data set of shards from public sources."""
