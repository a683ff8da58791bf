"""Where pictures come from: folders, shards near and far, Hugging Face data sets, and several of them together."""
