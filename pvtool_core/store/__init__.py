"""Files on disk: runs, events, identities, prompt banks, telemetry and the trajectory cache. Imports no torch."""
