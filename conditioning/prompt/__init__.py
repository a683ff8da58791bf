"""Prompt syntax, and its encoding into token states.

In the order in which a prompt passes through them: `wildcards` draws `{a|b}` and `__animal__` by the picture's seed,
`composition` splits at `AND`, `regions` at `ADDROW` and `ADDCOL`, `schedule` says which text each step reads,
`syntax` reads weights, `chunks` packs tokens into rows of the text tower, `emphasis` weighs its states, and `encoder`
does these last three.
"""
