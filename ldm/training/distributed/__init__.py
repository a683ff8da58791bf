"""Training on several processes: replicas (DDP) and sharded weights (FSDP2)."""
