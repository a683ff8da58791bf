"""Names of weights in CompVis' and transformers' files, and their translation to ours."""
