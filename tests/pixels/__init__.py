"""Tests of pixel data."""
