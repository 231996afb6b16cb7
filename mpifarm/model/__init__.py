"""Vocabulary: tasks, messages between ranks, settings, and the wording of numbers."""
