"""What users' eyes and mice say about LLM answers: a research compendium on implicit feedback."""

__version__ = "0.1.0"
