"""E3: XOR learned by small networks, random and pruned (document 002 §2)."""
