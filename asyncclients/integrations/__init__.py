"""What connects the library to other software; each module needs its own extra, or none."""
