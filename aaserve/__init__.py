"""aaserve: attention-augmented networks, exported and served. The folders beside this one, under one name."""
