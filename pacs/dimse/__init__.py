"""The DIMSE mouth: associations, messages, and the services of PS3.4 on the wire. The only room that imports pynetdicom."""
