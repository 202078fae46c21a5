"""Skill-Mix: are random combinations of skills shown together in one short text?"""
