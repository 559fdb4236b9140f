from features.representations import representation


@representation("row_norms", version=1, values=("mean", "std", "max"))
def row_norms(batch):
    """Mean, spread and maximum of the norms of a matrix's rows."""
    import torch

    norms = batch.matrices.double().norm(dim=2)  # (batch, m)
    return torch.stack([norms.mean(1), norms.std(1, correction=0), norms.amax(1)], dim=1)
