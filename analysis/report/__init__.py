"""The page.

May import: findings, figures, frame.
"""
