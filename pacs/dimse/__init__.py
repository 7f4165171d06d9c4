"""DIMSE: upper layer, messages, associations, server, and the services of PS3.4 as SCP and SCU."""
