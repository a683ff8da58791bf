"""Conditioning of denoisers: text, class labels, extra channels.

The package stands alone (it never imports `ldm`). `bundle` holds the record that every network takes, `clip_text` turns
texts into it (`clip_pair` with two towers) and `prompt` what people write in prompts, with `embeddings` for trained
words; `labels` turns class names into it, `bpe` makes a tokenizer, `contrastive` trains the text tower.
"""
