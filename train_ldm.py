"""`accelerate launch train_ldm.py CONFIG [a.b=c ...] [resume=auto|never|CHECKPOINT]`: train one stage."""

import sys

from ldm.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
