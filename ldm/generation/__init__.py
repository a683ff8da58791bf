"""Generation of pictures: requests, sampling, the pipeline `LatentDiffusion`, recipes."""
