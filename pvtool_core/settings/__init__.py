"""Settings and jobs: dataclasses, their limits, and their TOML form. Imports no torch."""
