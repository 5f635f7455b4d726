"""Getting the bytes of videos: local files, members of tars, mirrors, downloads."""
