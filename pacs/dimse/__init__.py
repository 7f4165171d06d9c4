"""The DIMSE mouth: associations, messages, and the services of PS3.4. The only room that imports pynetdicom."""
