"""Steering: entropy watched while tokens come, pauses for a question, and the decision to ask."""
