"""What makes the self-test and the doctor of a test patient: a ``sitecustomize``."""

PATIENT = """
from mpifarm.commands.doctor import batch_system
from mpifarm.commands.selftest import calls, node, ranks, sharing, storage
node.PROMPT_SECONDS = calls.PATIENCE_SECONDS = ranks.LOSS_SECONDS = 30.0
sharing.LOCK_SECONDS = storage.LOCK_SECONDS = 30.0
sharing.FREE_SECONDS = storage.FREE_SECONDS = 30.0
batch_system.VERSION_SECONDS = batch_system.JOB_SECONDS = 60.0
"""
"""A stall of the machine is no defect of what is tested."""
