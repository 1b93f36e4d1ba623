"""Trains the two shipped models, and yours, from pairs of questions and passages."""
