"""The workdir: status files, claims, timeline; the only owner of them.

Rules of this package: rank 0 uses a `store.Store`, which is a `file_store.FileStore`,
or a `custom_store.CustomStore` for a tasklist that keeps its own state.  The other
modules are parts of these two.  Only `system.files` writes.  Nothing is imported here,
because commands that only look need few of the modules.
"""
