"""The index: patient, study, series and image tables; the only package that uses SQL."""
