"""What every part needs: console, progress, processes, files, weights, and the names that stand for code."""
