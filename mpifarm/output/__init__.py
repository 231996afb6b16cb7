"""The outputs of tasks: how they are kept, and read back."""
