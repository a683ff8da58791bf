"""CLIP text encoders: tower, tokenizer, vocabulary and textual inversions."""
