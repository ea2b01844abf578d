"""E9: tickets in convolutional networks."""
