"""The index: tables of patients, studies, series, images and storage commitments; the only package that uses SQL."""
