"""Recipes: YAML to validated steps."""
