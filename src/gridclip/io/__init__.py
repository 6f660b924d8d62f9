"""Reading and writing files so that nothing is half there, and the one error for bad input."""
