"""What came out: statistics, figures, tables, distributions, tickets on disk."""
