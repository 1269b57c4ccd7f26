"""Files in, files out: everything that FFmpeg does for us."""
