"""Plug-ins: runners and handlers that INI files name."""
