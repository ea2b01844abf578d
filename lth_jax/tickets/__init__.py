"""What a ticket is, in pure functions of one network: who is kept, where it starts, what stands beside it."""
