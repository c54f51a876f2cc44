"""Runs, events, identities, prompt banks, telemetry and the trajectory cache on disk.

Imports no torch.
"""
