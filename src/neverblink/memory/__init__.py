"""What was said, kept on disk and found again: journal.py the file, output.py for `watch`, recall.py for questions."""
