"""Reward models on text and behaviour, and how they are judged."""
