"""What hostile and broken peers do to the running daemon, and that it is as it was before when they are done.

`house` starts the daemon and has the one check that follows every input: the process lives, a C-ECHO is answered within
two seconds, what is stored is found and comes back bit-identical, nothing is written outside of its folder, memory,
descriptors and threads are back, and the log has one line for the mishap, with nothing in it that acts on a terminal.

| group of the checklist (5.2) | where |
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
| by chance | `test_fuzz`, and `python -m tests.hostile fuzz` |

The findings about the software we stand on (checklist section 2) are in the names of tests all over tests/:
tests/contracts/test_findings.py sees that each of P1 to P16 is.
"""
