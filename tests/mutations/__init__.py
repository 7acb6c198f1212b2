"""Does a test fail when the line is taken away that it guards?  `make mutations` tries each."""
