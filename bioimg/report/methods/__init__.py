"""Write what was done for the methods section of a paper, a module for each paragraph."""
