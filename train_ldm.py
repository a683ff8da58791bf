"""`accelerate launch train_ldm.py CONFIG [a.b=c ...] [resume=auto|never|CHECKPOINT]`: train one stage."""

from ldm.cli.train import main

if __name__ == "__main__":
    main()
