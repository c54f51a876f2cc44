"""Scoring of clips by models that training did not see: metrics, and the report of their values."""
