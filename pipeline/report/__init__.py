"""Reports, pages, clips and exports that show the content of a lake to people."""
