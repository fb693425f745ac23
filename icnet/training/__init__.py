"""Learning: the task, its loss, metrics, optimizers, precision and what watches it."""
