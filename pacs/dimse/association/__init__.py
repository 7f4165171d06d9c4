"""Associations: how one is established, what arrives on it, and how a running operation is cancelled."""
