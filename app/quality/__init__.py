"""Judges searches against labels."""
