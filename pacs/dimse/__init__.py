"""DIMSE: the upper layer, messages, associations, and both sides of the services of PS3.4."""
