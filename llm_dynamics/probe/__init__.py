"""Probes: texts with a target span, scored in one compiled call and logged by step."""
