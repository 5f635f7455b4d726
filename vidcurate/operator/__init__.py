"""Operators: their kinds, columns, the decorator and the registry."""
