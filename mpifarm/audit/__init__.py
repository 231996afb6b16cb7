"""A workdir, audited and mended without a farm."""
