"""E8: pruning before, while and after training, side by side."""
