"""How a suite becomes a plan: recipes laid out as stages, each with its content key. No torch."""
