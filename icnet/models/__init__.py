"""ICNet, its backbone and its checkpoints."""
