"""Hostile and broken input for the running daemon.

`daemons` starts the daemon, and has the check after every test: the process runs, a C-ECHO is answered within two
seconds, stored instances are found and returned bit-identical, nothing is written outside its folder, memory,
descriptors and threads are back to normal, and the log has one line about the incident, without control characters.

| input | tests |
|---|---|
| 1 names | `test_1_names` |
| 2 PDUs | `test_2_pdus`; tests/dimse/test_upper_layer, test_hostile_pdus |
| 3 PDVs | `test_3_fragments`; tests/dimse/test_upper_layer |
| 4 command sets | `test_4_commands`; tests/dimse/test_messages |
| 5 data sets | `test_5_data_sets`; tests/dicom/test_elements |
| 6 values | `test_6_values`; tests/dimse/test_hostile_values |
| 7 queries | `test_7_queries`; tests/dimse/test_find, tests/index/test_search |
| 8 retrieves | `test_8_retrieves`; tests/dimse/test_retrieve, test_store_suboperations, test_requestor |
| 9 connections, TLS | `test_9_connections`, `test_encryption`; tests/dimse/test_server, tests/cli/test_encryption |
| users and access | `test_users`; tests/services/test_users, test_access |
| frames of pixel data | `test_frames`, `python -m tests.hostile frames`, `test_images`; tests/pixels/test_pool |
| mutated | `test_fuzz`, and `python -m tests.hostile fuzz` |

The ids P1 to P16 (docs/checklist.md) are in the names of tests; tests/contracts/test_findings.py checks that each has
one.
"""
