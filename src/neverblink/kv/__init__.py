"""The streaming KV cache: arena (tensors), table (rows), policies (decide), relocate (do), cache (transformers' view)."""
