"""How it is fast: products and convolutions behind the functions that the rest of the library sees."""
