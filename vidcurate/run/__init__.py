"""How work is run: executors, commit, resume, quarantine."""
