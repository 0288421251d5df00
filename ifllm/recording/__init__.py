"""From recordings to features: readers, the place of each sample in a text, and participants that are simulated."""
