"""Scoring of clips by models that training does not use: metrics, and the report."""
