"""The operators that come with vidcurate: one a file, on the public API alone."""
