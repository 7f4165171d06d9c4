"""The index: Patient, Study, Series and Image tables; the only room that speaks SQL."""
