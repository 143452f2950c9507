"""`neverblink serve`: streams, captions, questions, alerts and the live page over HTTP and WebSocket."""
