"""Everything that proves Isen: see CONTRIBUTING.md for what goes into which folder."""
