from features.layer_configs import layer_config


@layer_config("queries", version=1)
def queries(tensor):
    """Query projections alone."""
    return ".to_q." in tensor
