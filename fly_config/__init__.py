"""The shipped configurations of `fly` and their JSON Schema; data only."""
