"""Who took part, and how differently people read."""
