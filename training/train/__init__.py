"""Recipes, tasks, batches, objectives and the loop that trains."""
