"""What is written beside the code: the table of figures, and how the API reference is made."""
