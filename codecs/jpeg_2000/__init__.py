"""Reversible JPEG 2000 (ITU-T T.800): code-streams taken apart into samples and a recipe, and put together again."""
