"""Help for those who write the files: schemas for editors, checks with line numbers, templates."""
