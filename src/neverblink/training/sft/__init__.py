"""Supervised fine-tuning on JSONL records: what was said, second by second, over spans of video files."""
