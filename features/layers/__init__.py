"""Names of layers in every spelling, their two tensors, layer configs and families of them."""
