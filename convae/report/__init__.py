"""What people look at: curves, pictures, figures and diagnostics."""
