"""The talk between ranks."""
