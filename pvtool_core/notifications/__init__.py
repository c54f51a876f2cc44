"""Notifications when a run or a batch ends: a command and a webhook of the user. No torch."""
