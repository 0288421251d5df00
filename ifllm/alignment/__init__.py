"""Preference sets, language models trained on them, and what they then answer."""
