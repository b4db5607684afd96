"""What people read of a run: one self-contained HTML file."""
