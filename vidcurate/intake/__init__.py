"""What the sources name, made ready for a run: filtered, without exclude lists, each video once."""
