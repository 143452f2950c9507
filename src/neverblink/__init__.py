"""neverblink: watch video that never ends with a vision-language model."""

__version__ = "0.1.0"
