"""One process of a farm: what each rank does, and what rank 0 does beside it."""
