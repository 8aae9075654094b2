"""Train one trial: the loop, batches, cached features, evaluation, checkpoints."""
