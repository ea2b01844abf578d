"""Speed against PyTorch and against the machine's own peak."""
