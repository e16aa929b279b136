"""The GPU day: what tests/gpu/run does, in Python without packages of others."""
