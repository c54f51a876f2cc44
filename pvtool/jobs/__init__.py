"""Prepare and start jobs for both front ends: the CLI and the dashboard."""
