"""Apply trials that kept their models to images.

Most imports happen when a function runs, so that the help of `bioimg predict` is instant.
"""
