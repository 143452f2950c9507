"""The streaming KV cache: table (rows), policies (decide), relocate (does), arena (tensors), cache (their view)."""
