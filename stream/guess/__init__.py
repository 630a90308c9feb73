"""Guesses a mapping from a sample of events, for `eddy init`."""
