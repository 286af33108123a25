"""Linear layers kept as packed integers: two checkpoint layouts, the conversion between them, training on them."""
