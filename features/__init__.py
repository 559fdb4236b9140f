"""What a trial eats: adapters, layer tensors, representations and their cache."""
