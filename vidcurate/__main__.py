"""`python -m vidcurate`: the command line."""

from vidcurate.cli.main import app

app(prog_name="vidcurate")
