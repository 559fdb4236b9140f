"""CLIP and T5 text encoders."""

WORDS = (
    *("text_model", "text_projection", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *("to_q", "to_k", "to_v", "to_out", "wi_0", "wi_1"),
)
PLAIN_WORDS = (
    *("encoder", "layers", "mlp", "fc1", "fc2", "block", "layer", "SelfAttention"),
    *("DenseReluDense", "q", "k", "v", "o", "wi", "wo"),
)
_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def canonical_path(path: str) -> str:
    """Path in a text encoder, as transformers 4 and today's diffusers have it."""
    head, _, last = path.rpartition(".")
    path = f"{head}.{_PROJECTIONS[last]}" if last in _PROJECTIONS else path
    # transformers 5 has CLIP's layers without the module around them; T5's are called blocks.
    return f"text_model.{path}" if path.startswith("encoder.layers.") else path
