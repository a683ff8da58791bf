"""Pictures as training samples: decoding, cropping, buckets and augmentation."""
