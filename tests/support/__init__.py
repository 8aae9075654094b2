"""Helpers that several tests share. No test imports another test."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
