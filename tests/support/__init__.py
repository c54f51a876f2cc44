"""Helpers of the tests: small models, inputs, processes and screens."""
